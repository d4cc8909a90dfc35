"""`./run sql`: write docs/sql and migrations/in_memory.sql anew."""

from tests.statements import in_memory
from tests.statements.pages import pages

if __name__ == "__main__":
    for path, text in {**pages(), in_memory.PATH: in_memory.text()}.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path)
