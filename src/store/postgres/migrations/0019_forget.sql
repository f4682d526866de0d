-- A project that is forgotten gives its name away at once: its row is called '/' and its number, which is no name of a project,
-- until its history is removed step by step, and the row with it. Never edit this file: add another.
DROP TRIGGER IF EXISTS projects_revision_never_falls ON projects;
CREATE TRIGGER projects_revision_never_falls BEFORE UPDATE ON projects FOR EACH ROW
WHEN (NEW.revision < OLD.revision OR NEW.number IS DISTINCT FROM OLD.number OR (NEW.name IS DISTINCT FROM OLD.name
    AND (NEW.name IS DISTINCT FROM '/' || OLD.number OR permit() IS DISTINCT FROM 'forget')))
EXECUTE FUNCTION refuse('a project''s revision never falls and its name never changes');

DROP TRIGGER IF EXISTS projects_stay ON projects;
CREATE TRIGGER projects_stay BEFORE DELETE ON projects FOR EACH ROW
WHEN (OLD.name NOT LIKE '/%' OR permit() IS DISTINCT FROM 'forget')
EXECUTE FUNCTION refuse('a project is only removed after it was forgotten');
