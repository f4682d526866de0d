-- The mark of a project that somebody set: a JSON object, and nothing as long as the highest build number that was started is
-- the mark. Never edit this file: add another.
ALTER TABLE projects ADD COLUMN set_mark TEXT CHECK (set_mark IS NULL OR last_started IS NULL);
