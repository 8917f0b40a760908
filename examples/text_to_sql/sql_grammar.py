"""The grammar of the SQL that the bundled model may write: SELECT over this schema, with placeholders for values.

In Lark's notation as `llguidance` reads it. Never allows another statement, table or column.
"""

from __future__ import annotations

from examples.text_to_sql.geography import COLUMNS
from examples.text_to_sql.linking import KINDS, PER_KIND

_UNQUALIFIED = sorted(
    {column for columns in COLUMNS.values() for column in columns}, key=lambda name: (-len(name), name)
)
_QUALIFIED = "|".join(rf"{table}\.({'|'.join(columns)})" for table, columns in COLUMNS.items())

SQL_GRAMMAR = rf"""
start: query
query: "SELECT " items " FROM " source where? group? order? limit? | "SELECT " value (OPERATOR value)?
items: DISTINCT? value (", " value)*
source: TABLE join* | "(" query ")"
join: " JOIN " TABLE " ON " COLUMN " = " COLUMN
where: " WHERE " conditions
group: " GROUP BY " COLUMN (" HAVING " conditions)?
order: " ORDER BY " value DESC? (", " value DESC?)*
limit: " LIMIT " count (" OFFSET " count)?
conditions: condition ((" AND " | " OR ") condition)*
condition: value OPERATOR value | value " BETWEEN " value " AND " value | value IS_NULL | value LIKE pattern
    | value IN "(" (query | PLACEHOLDER (", " PLACEHOLDER)*) ")" | EXISTS "(" query ")" | "(" conditions ")"
value: term (ARITHMETIC term)*
term: COLUMN | PLACEHOLDER | "-" PLACEHOLDER | NUMBER | "COUNT(*)" | "COUNT(DISTINCT " COLUMN ")"
    | FUNCTION "(" (value | condition) ")" | "(" query ")"
pattern: PLACEHOLDER " || '%'" | "'%' || " PLACEHOLDER (" || '%'")?
count: PLACEHOLDER | NUMBER
DISTINCT: "DISTINCT "
DESC: " DESC" | " ASC"
OPERATOR: " = " | " <> " | " < " | " > " | " <= " | " >= "
ARITHMETIC: " + " | " - " | " * " | " / "
IN: " IN " | " NOT IN "
IS_NULL: " IS NULL" | " IS NOT NULL"
LIKE: " LIKE " | " NOT LIKE "
EXISTS: "EXISTS " | "NOT EXISTS "
FUNCTION: "COUNT" | "SUM" | "AVG" | "MIN" | "MAX" | "ABS" | "LENGTH"
TABLE: "{'" | "'.join(COLUMNS)}"
COLUMN: /({"|".join(_UNQUALIFIED)})|{_QUALIFIED}/
PLACEHOLDER: /({"|".join(KINDS)})[1-{PER_KIND}]/
NUMBER: /[0-9]+(\.[0-9]+)?/
"""
"""One query; single spaces, keywords in capitals, as the training data spell it."""
