"""`./run sql`: write docs/sql anew."""

from tests.statements.pages import pages

if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path)
