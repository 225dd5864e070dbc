"""SQLAlchemy on a node:  DQLITEPY_LIBRARY=target/release/libdqlitepy.so python alchemy.py DIRECTORY [ADDRESS]"""

import sys

from dqlitepy import Node
from dqlitepy.sqlalchemy import register_dqlite_node
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    height: Mapped[float | None]


node = Node(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9001", sys.argv[1] if len(sys.argv) > 1 else "hello-data")
node.start()
register_dqlite_node(node)
engine = create_engine("dqlite:///people.db")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Person(name="Ada", height=1.65), Person(name="Bob")])
    session.commit()
    for person in session.scalars(select(Person).order_by(Person.id.desc()).limit(2)):
        print(person.id, person.name, person.height)
node.stop()
