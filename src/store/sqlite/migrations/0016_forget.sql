-- A project that is forgotten gives its name away at once: its row is called '/' and its number, which is no name of a project,
-- until its history is removed step by step, and the row with it. Never edit this file: add another.
DROP TRIGGER IF EXISTS projects_revision_never_falls;
CREATE TRIGGER projects_revision_never_falls BEFORE UPDATE ON projects
WHEN NEW.revision < OLD.revision OR NEW.number IS NOT OLD.number OR (NEW.name IS NOT OLD.name
    AND (NEW.name IS NOT '/' || OLD.number OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'forget')))
BEGIN SELECT RAISE(ABORT, 'a project''s revision never falls and its name never changes'); END;

DROP TRIGGER IF EXISTS projects_stay;
CREATE TRIGGER projects_stay BEFORE DELETE ON projects
WHEN OLD.name NOT LIKE '/%' OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'forget')
BEGIN SELECT RAISE(ABORT, 'a project is only removed after it was forgotten'); END;
