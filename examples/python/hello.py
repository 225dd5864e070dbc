"""One node with dqlitepy's classes:  DQLITEPY_LIBRARY=target/release/libdqlitepy.so python hello.py DIRECTORY [ADDRESS]"""

import sys

from dqlitepy import Client, Node, NodeError

directory = sys.argv[1] if len(sys.argv) > 1 else "hello-data"
address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9001"

node = Node(address, directory)
node.start()
node.open_db("hello.db")
node.exec("CREATE TABLE IF NOT EXISTS greeting (id INTEGER PRIMARY KEY, text TEXT UNIQUE)")
node.exec("INSERT OR IGNORE INTO greeting (text) VALUES ('hello'), ('world')")

node.begin()
node.exec("DELETE FROM greeting")
node.rollback()
for row in node.query("SELECT id, text FROM greeting ORDER BY id"):
    print(row["id"], row["text"])

try:
    node.exec("INSERT INTO greeting (text) VALUES ('hello')")
except NodeError as error:
    print(error.code, error.message)  # 1000 + SQLite's code: 1019 is a constraint

with Client([address]) as client:
    print("the leader is", client.leader())
node.stop()
