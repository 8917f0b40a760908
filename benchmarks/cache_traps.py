"""Questions for text-to-SQL that look alike and are not: our own trap set. Whether two questions have the same answer
is found by running their SQL, never by opinion.

Each family is one question in several wordings, its SQL, and questions that differ from it in one thing: a negation, an
order word, a column. Numbers, years and names are changed by drawing another value for one slot. The families of the
part "tune" are for improving the cache, those of "measure" for the figures alone.
"""

# ruff: noqa: E501 -- a table of questions and their SQL reads best one to a line
from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal["tune", "measure"]

SLOTS: dict[str, tuple[str, ...]] = {
    "c": ("France", "Germany", "Spain", "Italy", "Poland", "Canada", "Brazil", "Japan", "Kenya", "Egypt"),
    "t": ("London", "Madrid", "Toronto", "Osaka", "Cairo", "Lyon", "Berlin", "Porto", "Oslo", "Nairobi"),
    "n": ("50", "100", "120", "200", "250", "300", "400", "500", "750", "1000"),
    "k": ("2", "3", "4", "5", "6", "7", "8", "10"),
    "y": ("2016", "2017", "2018", "2019", "2020", "2021", "2022", "2023"),
    "p": ("laptops", "phones", "chairs", "desks", "lamps", "printers", "cameras", "monitors"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """One question. `traps`: (what is changed, question, SQL)."""

    part: Part
    wordings: tuple[str, ...]
    sql: str
    traps: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its SQL. `kind`: "base", "paraphrase", or what was changed."""

    kind: str
    question: str
    sql: str


_CUSTOMERS = "FROM customers WHERE "
_ORDERS = "FROM orders o JOIN customers c ON c.id = o.customer JOIN products p ON p.id = o.product WHERE "
_IN_YEAR = "strftime('%Y', o.placed) = '{y}'"

FAMILIES: tuple[Family, ...] = (
    Family("tune", ("How many customers are from {c}?", "What is the number of customers in {c}?", "Count the customers from {c}", "How many customers do we have in {c}?"),
           f"SELECT count(*) {_CUSTOMERS} country = '{{c}}'",
           (("negation", "How many customers are not from {c}?", f"SELECT count(*) {_CUSTOMERS} country <> '{{c}}'"),
            ("column", "How many cities do customers from {c} live in?", f"SELECT count(DISTINCT city) {_CUSTOMERS} country = '{{c}}'"))),
    Family("tune", ("Which products cost more than {n} dollars?", "List the products priced over {n} dollars", "Show products with a price above {n} dollars"),
           "SELECT name FROM products WHERE price > {n} ORDER BY name",
           (("order", "Which products cost less than {n} dollars?", "SELECT name FROM products WHERE price < {n} ORDER BY name"),
            ("column", "Which products weigh more than {n} grams?", "SELECT name FROM products WHERE grams > {n} ORDER BY name"))),
    Family("tune", ("What were the total sales in {y}?", "Total sales of {y}", "How much did we sell in total in {y}?", "Give me the sum of all sales in {y}"),
           f"SELECT sum(o.amount) {_ORDERS} {_IN_YEAR}",
           (("order", "What were the total sales before {y}?", f"SELECT sum(o.amount) {_ORDERS} strftime('%Y', o.placed) < '{{y}}'"),
            ("column", "What was the average sale in {y}?", f"SELECT avg(o.amount) {_ORDERS} {_IN_YEAR}"))),
    Family("tune", ("Who are the top {k} customers by spending?", "Show the {k} customers who spend the most", "List the {k} highest spending customers"),
           f"SELECT c.name {_ORDERS} 1 GROUP BY c.id ORDER BY sum(o.amount) DESC, c.id LIMIT {{k}}",
           (("order", "Who are the bottom {k} customers by spending?", f"SELECT c.name {_ORDERS} 1 GROUP BY c.id ORDER BY sum(o.amount), c.id LIMIT {{k}}"),
            ("column", "Who are the top {k} customers by number of orders?", f"SELECT c.name {_ORDERS} 1 GROUP BY c.id ORDER BY count(*) DESC, c.id LIMIT {{k}}"))),
    Family("tune", ("Which customers live in {t}?", "List customers living in {t}", "Show me all customers who live in {t}"),
           f"SELECT name {_CUSTOMERS} city = '{{t}}' ORDER BY name",
           (("negation", "Which customers do not live in {t}?", f"SELECT name {_CUSTOMERS} city <> '{{t}}' ORDER BY name"),
            ("column", "Which orders were shipped to {t}?", f"SELECT o.id {_ORDERS} c.city = '{{t}}' ORDER BY o.id"))),
    Family("tune", ("What is the most expensive product?", "Which product has the highest price?", "Name the product that costs the most"),
           "SELECT name FROM products ORDER BY price DESC LIMIT 1",
           (("order", "What is the cheapest product?", "SELECT name FROM products ORDER BY price LIMIT 1"),
            ("column", "What is the heaviest product?", "SELECT name FROM products ORDER BY grams DESC LIMIT 1"))),
    Family("measure", ("How many orders were placed in {y}?", "Number of orders in {y}", "Count the orders placed during {y}", "How many orders did we get in {y}?"),
           f"SELECT count(*) {_ORDERS} {_IN_YEAR}",
           (("order", "How many orders were placed after {y}?", f"SELECT count(*) {_ORDERS} strftime('%Y', o.placed) > '{{y}}'"),
            ("negation", "How many orders were not placed in {y}?", f"SELECT count(*) {_ORDERS} NOT ({_IN_YEAR})"),
            ("column", "How many customers placed orders in {y}?", f"SELECT count(DISTINCT o.customer) {_ORDERS} {_IN_YEAR}"))),
    Family("measure", ("What is the average price of {p}?", "Average price for {p}", "How much do {p} cost on average?", "Tell me the mean price of {p}"),
           "SELECT avg(price) FROM products WHERE kind = '{p}'",
           (("order", "What is the lowest price of {p}?", "SELECT min(price) FROM products WHERE kind = '{p}'"),
            ("column", "What is the average weight of {p}?", "SELECT avg(grams) FROM products WHERE kind = '{p}'"))),
    Family("measure", ("Which customers spent more than {n} dollars in {y}?", "List customers who spent over {n} dollars in {y}", "Show customers with spending above {n} dollars in {y}"),
           f"SELECT c.name {_ORDERS} {_IN_YEAR} GROUP BY c.id HAVING sum(o.amount) > {{n}} ORDER BY c.name",
           (("order", "Which customers spent less than {n} dollars in {y}?", f"SELECT c.name {_ORDERS} {_IN_YEAR} GROUP BY c.id HAVING sum(o.amount) < {{n}} ORDER BY c.name"),
            ("column", "Which products earned more than {n} dollars in {y}?", f"SELECT p.name {_ORDERS} {_IN_YEAR} GROUP BY p.id HAVING sum(o.amount) > {{n}} ORDER BY p.name"))),
    Family("measure", ("Which {k} products sold best in {y}?", "List the {k} best selling products of {y}", "What were the top {k} selling products in {y}?", "Show the {k} best sellers in {y}"),
           f"SELECT p.name {_ORDERS} {_IN_YEAR} GROUP BY p.id ORDER BY sum(o.quantity) DESC, p.id LIMIT {{k}}",
           (("order", "Which {k} products sold worst in {y}?", f"SELECT p.name {_ORDERS} {_IN_YEAR} GROUP BY p.id ORDER BY sum(o.quantity), p.id LIMIT {{k}}"),
            ("column", "Which {k} customers bought most in {y}?", f"SELECT c.name {_ORDERS} {_IN_YEAR} GROUP BY c.id ORDER BY sum(o.quantity) DESC, c.id LIMIT {{k}}"))),
    Family("measure", ("How much revenue came from {c} in {y}?", "What was the revenue from {c} in {y}?", "Revenue from {c} in {y}", "Show the total revenue from {c} for {y}"),
           f"SELECT sum(o.amount) {_ORDERS} c.country = '{{c}}' AND {_IN_YEAR}",
           (("negation", "How much revenue came from outside {c} in {y}?", f"SELECT sum(o.amount) {_ORDERS} c.country <> '{{c}}' AND {_IN_YEAR}"),
            ("order", "How much revenue came from {c} since {y}?", f"SELECT sum(o.amount) {_ORDERS} c.country = '{{c}}' AND strftime('%Y', o.placed) >= '{{y}}'"),
            ("column", "How many orders came from {c} in {y}?", f"SELECT count(*) {_ORDERS} c.country = '{{c}}' AND {_IN_YEAR}"))),
    Family("measure", ("List all customers from {c} who bought {p}", "Which customers from {c} bought {p}?", "Show the customers in {c} that purchased {p}", "Who from {c} has bought {p}?"),
           f"SELECT DISTINCT c.name {_ORDERS} c.country = '{{c}}' AND p.kind = '{{p}}' ORDER BY c.name",
           (("negation", "List all customers from {c} who never bought {p}", f"SELECT name {_CUSTOMERS} country = '{{c}}' AND id NOT IN (SELECT o.customer {_ORDERS} p.kind = '{{p}}') ORDER BY name"),
            ("negation", "Which customers not from {c} bought {p}?", f"SELECT DISTINCT c.name {_ORDERS} c.country <> '{{c}}' AND p.kind = '{{p}}' ORDER BY c.name"))),
    Family("measure", ("What is the largest order from {t}?", "Show the biggest order placed from {t}", "Which order from {t} was the largest?"),
           f"SELECT o.id {_ORDERS} c.city = '{{t}}' ORDER BY o.amount DESC, o.id LIMIT 1",
           (("order", "What is the smallest order from {t}?", f"SELECT o.id {_ORDERS} c.city = '{{t}}' ORDER BY o.amount, o.id LIMIT 1"),
            ("order", "What is the latest order from {t}?", f"SELECT o.id {_ORDERS} c.city = '{{t}}' ORDER BY o.placed DESC, o.id LIMIT 1"))),
    Family("measure", ("How many {p} were sold in {c}?", "Number of {p} sold in {c}", "How many {p} did we sell in {c}?", "Count the {p} sold in {c}"),
           f"SELECT sum(o.quantity) {_ORDERS} p.kind = '{{p}}' AND c.country = '{{c}}'",
           (("negation", "How many {p} were sold outside {c}?", f"SELECT sum(o.quantity) {_ORDERS} p.kind = '{{p}}' AND c.country <> '{{c}}'"),
            ("column", "How many {p} were returned in {c}?", f"SELECT sum(o.returned) {_ORDERS} p.kind = '{{p}}' AND c.country = '{{c}}'"))),
    Family("measure", ("Which countries have more than {k} customers?", "List countries with over {k} customers", "Show every country that has more than {k} customers"),
           "SELECT country FROM customers GROUP BY country HAVING count(*) > {k} ORDER BY country",
           (("order", "Which countries have fewer than {k} customers?", "SELECT country FROM customers GROUP BY country HAVING count(*) < {k} ORDER BY country"),
            ("order", "Which countries have at least {k} customers?", "SELECT country FROM customers GROUP BY country HAVING count(*) >= {k} ORDER BY country"),
            ("column", "Which cities have more than {k} customers?", "SELECT city FROM customers GROUP BY city HAVING count(*) > {k} ORDER BY city"))),
    Family("measure", ("Show the newest customer in {c}", "Who is the newest customer from {c}?", "Which customer from {c} is the newest?"),
           f"SELECT name {_CUSTOMERS} country = '{{c}}' ORDER BY joined DESC, id LIMIT 1",
           (("order", "Show the oldest customer in {c}", f"SELECT name {_CUSTOMERS} country = '{{c}}' ORDER BY joined, id LIMIT 1"),
            ("column", "Show the newest order in {c}", f"SELECT o.id {_ORDERS} c.country = '{{c}}' ORDER BY o.placed DESC, o.id LIMIT 1"))),
    Family("measure", ("Did sales of {p} rise from {y} to {z}?", "Have {p} sales increased from {y} to {z}?", "Did {p} sales grow from {y} to {z}?"),
           f"SELECT sum(CASE strftime('%Y', o.placed) WHEN '{{z}}' THEN o.amount WHEN '{{y}}' THEN -o.amount ELSE 0 END) > 0 {_ORDERS} p.kind = '{{p}}'",
           (("order", "Did sales of {p} fall from {y} to {z}?", f"SELECT sum(CASE strftime('%Y', o.placed) WHEN '{{z}}' THEN o.amount WHEN '{{y}}' THEN -o.amount ELSE 0 END) < 0 {_ORDERS} p.kind = '{{p}}'"),
            ("swap", "Did sales of {p} rise from {z} to {y}?", f"SELECT sum(CASE strftime('%Y', o.placed) WHEN '{{y}}' THEN o.amount WHEN '{{z}}' THEN -o.amount ELSE 0 END) > 0 {_ORDERS} p.kind = '{{p}}'"))),
    Family("measure", ("Are there more customers in {c} than in {d}?", "Does {c} have more customers than {d}?", "Has {c} got more customers than {d}?"),
           f"SELECT (SELECT count(*) {_CUSTOMERS} country = '{{c}}') > (SELECT count(*) {_CUSTOMERS} country = '{{d}}')",
           (("swap", "Are there more customers in {d} than in {c}?", f"SELECT (SELECT count(*) {_CUSTOMERS} country = '{{d}}') > (SELECT count(*) {_CUSTOMERS} country = '{{c}}')"),
            ("order", "Are there fewer customers in {c} than in {d}?", f"SELECT (SELECT count(*) {_CUSTOMERS} country = '{{c}}') < (SELECT count(*) {_CUSTOMERS} country = '{{d}}')"))),
    Family("measure", ("Which products have never been ordered from {t}?", "List products that were never ordered from {t}", "Show the products nobody in {t} has ordered"),
           f"SELECT name FROM products WHERE id NOT IN (SELECT o.product {_ORDERS} c.city = '{{t}}') ORDER BY name",
           (("negation", "Which products have been ordered from {t}?", f"SELECT name FROM products WHERE id IN (SELECT o.product {_ORDERS} c.city = '{{t}}') ORDER BY name"),)),
    Family("measure", ("What share of orders in {y} was returned?", "Share of returned orders in {y}", "Which part of the orders in {y} was returned?", "What percentage of orders was returned in {y}?"),
           f"SELECT 1.0 * sum(o.returned > 0) / count(*) {_ORDERS} {_IN_YEAR}",
           (("negation", "What share of orders in {y} was not returned?", f"SELECT 1.0 * sum(o.returned = 0) / count(*) {_ORDERS} {_IN_YEAR}"),
            ("column", "How many orders in {y} were returned?", f"SELECT sum(o.returned > 0) {_ORDERS} {_IN_YEAR}"))),
)  # fmt: skip


def database(seed: int) -> sqlite3.Connection:
    """A small shop in memory: customers, products and orders of eight years."""
    rng = random.Random(seed)
    shop = sqlite3.connect(":memory:")
    shop.executescript(
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, country TEXT, city TEXT, joined TEXT);"
        "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price REAL, grams REAL);"
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, product INTEGER, placed TEXT, quantity INTEGER,"
        " amount REAL, returned INTEGER);"
    )

    def day() -> str:
        return f"{rng.choice(SLOTS['y'])}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    for i in range(1, 61):
        weights = range(1, len(SLOTS["c"]) + 1)
        country, city = rng.choices(SLOTS["c"], weights)[0], rng.choice(SLOTS["t"])
        shop.execute("INSERT INTO customers VALUES (?,?,?,?,?)", (i, f"Customer {i:03}", country, city, day()))
    for i in range(1, 81):
        price, grams = round(rng.uniform(20, 1200), 2), round(rng.uniform(40, 1500))
        shop.execute(
            "INSERT INTO products VALUES (?,?,?,?,?)", (i, f"Product {i:03}", rng.choice(SLOTS["p"]), price, grams)
        )
    for i in range(1, 1501):
        quantity, returned = rng.randint(1, 9), rng.choice((0, 0, 0, 1, 2))
        amount = round(quantity * rng.uniform(5, 150), 2)
        row = (i, rng.randint(1, 60), rng.randint(1, 80), day(), quantity, amount, min(returned, quantity))
        shop.execute("INSERT INTO orders VALUES (?,?,?,?,?,?,?)", row)
    return shop


def draw(part: Part, instances: int, seed: int) -> Iterator[tuple[Asked, list[Asked]]]:
    """For each family `instances` times: a base question, and its paraphrases and traps."""
    rng = random.Random(f"{part}/{seed}")
    for family in FAMILIES:
        if family.part != part:
            continue
        for _ in range(instances):
            values = {name: rng.choice(pool) for name, pool in SLOTS.items()}
            values["d"] = rng.choice([c for c in SLOTS["c"] if c != values["c"]])
            values["z"] = rng.choice([y for y in SLOTS["y"] if y != values["y"]])
            base, *others = rng.sample(family.wordings, len(family.wordings))
            asked = [Asked("paraphrase", w.format(**values), family.sql.format(**values)) for w in others]
            for kind, question, sql in family.traps:
                asked.append(Asked(kind, question.format(**values), sql.format(**values)))
            for slot, kind in (
                ("n", "number"),
                ("k", "number"),
                ("y", "year"),
                ("c", "entity"),
                ("t", "entity"),
                ("p", "entity"),
            ):
                if f"{{{slot}}}" in base:
                    other = rng.choice([v for v in SLOTS[slot] if v not in values.values()])
                    changed = values | {slot: other}
                    wording = rng.choice(family.wordings)
                    asked.append(Asked(kind, wording.format(**changed), family.sql.format(**changed)))
            yield Asked("base", base.format(**values), family.sql.format(**values)), asked


def results(shop: sqlite3.Connection, sql: str) -> tuple[tuple[object, ...], ...]:
    """What a query gives."""
    return tuple(shop.execute(sql).fetchall())
