"""The SQLAlchemy dialect of dqlitepy. Its own Python leaves out: rollback (does nothing), reflection of keys and indexes,
conversion of LargeBinary and DateTime, and an ORM get() that finds nothing (an empty result has no columns)."""

import pytest
import sqlalchemy as sa
from dqlitepy.sqlalchemy import JSON, register_dqlite_node
from sqlalchemy import orm


@pytest.fixture
def engine(node):
    register_dqlite_node(node)
    engine = sa.create_engine("dqlite:///alchemy.db")
    yield engine
    engine.dispose()


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    rating: orm.Mapped[float | None]
    active: orm.Mapped[bool] = orm.mapped_column(default=True)
    extra = sa.Column(JSON)
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


def test_core(engine):
    metadata = sa.MetaData()
    t = sa.Table("t", metadata, sa.Column("z", sa.Integer, primary_key=True), sa.Column("a", sa.Text), sa.Column("m", sa.Float))
    with engine.connect() as c:
        metadata.create_all(c)
        c.execute(sa.insert(t), [{"z": n, "a": f"row {n}", "m": n / 4} for n in range(1, 11)])
        assert c.execute(sa.select(t).where(t.c.z == 4)).all() == [(4, "row 4", 1.0)]
        # Columns in another order than the alphabet's, by position and by name.
        row = c.execute(sa.select(t.c.m, t.c.z, t.c.a).order_by(t.c.z.desc()).limit(1)).one()
        assert tuple(row) == (2.5, 10, "row 10") and (row.a, row.m, row.z) == ("row 10", 2.5, 10)
        assert c.execute(sa.select(sa.func.count(), sa.func.sum(t.c.m)).select_from(t)).one() == (10, 13.75)
        assert c.execute(sa.update(t).where(t.c.z > 8).values(a="new")).rowcount == 2
        assert c.execute(sa.delete(t).where(t.c.z <= 3)).rowcount == 3
        assert c.execute(sa.select(t.c.a).where(t.c.z.in_([4, 9])).order_by(t.c.z)).scalars().all() == ["row 4", "new"]
        assert c.execute(sa.insert(t).values(a="more", m=None)).inserted_primary_key == (11,)
        assert c.execute(sa.text("SELECT a FROM t WHERE z = 11")).scalar() == "more"
        metadata.drop_all(c)


def test_orm(engine):
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        ursula = Author(name="Ursula", rating=4.5, extra={"tags": ["ä", None, 1]})
        ursula.books = [Book(title="The Dispossessed"), Book(title="Earthsea's first")]
        session.add_all([ursula, Author(name="Nobody", active=False)])
        session.commit()
    with orm.Session(engine) as session:
        author = session.scalars(sa.select(Author).where(Author.name == "Ursula")).one()
        assert (author.rating, author.active, author.extra) == (4.5, True, {"tags": ["ä", None, 1]})
        assert [b.title for b in author.books] == ["The Dispossessed", "Earthsea's first"]
        assert session.get(Book, 2).author is author
        author.rating = None
        session.commit()
        pairs = session.execute(sa.select(Book.title, Author.name).join(Author).order_by(Book.id)).all()
        assert pairs == [("The Dispossessed", "Ursula"), ("Earthsea's first", "Ursula")]
        loaded = session.scalars(sa.select(Author).options(orm.selectinload(Author.books)).order_by(Author.id)).all()
        assert [(a.name, a.rating, a.active, len(a.books)) for a in loaded] == [
            ("Ursula", None, True, 2),
            ("Nobody", None, False, 0),
        ]
        session.delete(session.get(Book, 1))
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 1


def test_inspection(engine):
    Base.metadata.create_all(engine)
    with engine.connect() as c:
        dialect = engine.dialect
        assert dialect.has_table(c, "author") and not dialect.has_table(c, "missing")
        assert dialect.get_table_names(c) == ["author", "book"]
        columns = {column["name"]: column for column in dialect.get_columns(c, "author")}
        assert list(columns) == ["id", "name", "rating", "active", "extra"]
        assert columns["id"]["primary_key"] and not columns["name"]["nullable"]
        assert isinstance(columns["rating"]["type"], sa.REAL)


def test_failed_statement(engine):
    with engine.connect() as c:
        c.execute(sa.text("CREATE TABLE u (a INTEGER UNIQUE)"))
        c.execute(sa.text("INSERT INTO u VALUES (1)"))
        with pytest.raises(sa.exc.ProgrammingError, match="UNIQUE constraint failed: u.a"):
            c.execute(sa.text("INSERT INTO u VALUES (1)"))
        assert c.execute(sa.text("SELECT count(*) FROM u")).scalar() == 1


def test_values_through_the_dialect(engine):
    """What a column of each plain type gives back."""
    t = sa.Table(
        "v",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("i", sa.BigInteger),
        sa.Column("f", sa.Float),
        sa.Column("s", sa.String(50)),
        sa.Column("u", sa.Unicode),
        sa.Column("b", sa.Boolean),
    )
    rows = [
        (1, 2**63 - 1, 0.1, "", "日本", True),
        (2, -(2**63), -1e-300, "it's \"quoted\"\n", "\U0001f600", False),
        (3, None, None, None, None, None),
    ]
    with engine.connect() as c:
        t.create(c)
        for row in rows:
            c.execute(sa.insert(t).values(row))
        assert [tuple(r) for r in c.execute(sa.select(t).order_by(t.c.id))] == rows
