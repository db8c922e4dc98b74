-- SPDX-License-Identifier: GPL-2.0
-- A database in memory: rows, an index, joins, deletions. Prints the KiB that are
-- resident when all are gone; the first line of the file names the columns.
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, size INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO item SELECT i, 'item ' || (i * 7919 % 60013), i % 977,
	substr('a note of some length that differs from row to row', 1, i % 50) FROM n;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_size ON item (size, name);
SELECT count(*), sum(length(note)) FROM item WHERE size < 300;
SELECT size, count(*), group_concat(name) FROM item GROUP BY size LIMIT 1;
SELECT count(*) FROM item a JOIN item b ON b.name = 'item ' || a.id;
DELETE FROM item WHERE id % 3 = 0;
UPDATE item SET note = note || note || name WHERE id % 2 = 0;
SELECT count(DISTINCT note) FROM item;
SELECT max(length(x)) FROM (SELECT group_concat(note) AS x FROM item GROUP BY size);
DROP TABLE item;
PRAGMA shrink_memory;
.mode tabs
.import /proc/self/status status
SELECT 0 + trim(sqlite3, char(9) || ' kB') FROM status WHERE "Name:" = 'VmRSS:';
