-- What else people call a place: a JSON list of texts.
ALTER TABLE places ADD COLUMN aliases TEXT NOT NULL DEFAULT '[]';
