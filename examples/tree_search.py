"""Tree search by forking: try several ways on from a point, score them, and go on from the best.

A fork copies no entries, and what it shares with its source is billed once.
"""

from statestore import NewEntry, StateStore, Usage

GOAL = 25
MOVES = {"add 7": lambda n: n + 7, "double": lambda n: n * 2, "subtract 3": lambda n: n - 3}


def main() -> None:
    with StateStore.open("sqlite://") as store:
        store.history.append("root", [{"role": "user", "content": f"Get from 4 to {GOAL}."}], create=True)
        store.state.set("root", "number", 4)
        best = ["root"]
        for _depth in range(4):
            found = []
            for session_id in best:
                for move, apply in MOVES.items():
                    fork = store.sessions.fork(session_id).session_id
                    number = apply(store.state.get(fork, "number"))
                    usage = Usage(input_tokens=50, output_tokens=5)
                    entry = NewEntry({"role": "assistant", "content": f"{move}: {number}"}, usage=usage, cost_usd=0.001)
                    store.history.append(fork, [entry])
                    store.state.set(fork, "number", number)
                    found.append((abs(GOAL - number), fork))
            found.sort()
            best = [session_id for _, session_id in found[:3]]
            # What leads nowhere goes; what its relatives share with it stays.
            store.sessions.delete_many([session_id for _, session_id in found[3:]])
            if found[0][0] == 0:
                break
        for message in store.history.messages(best[0]):
            print(message["content"])
        lineage = store.sessions.lineage(best[0])
        total = store.usage.totals()
        print(f"{len(lineage.ancestors)} forks deep; {total.model_calls} tries cost ${total.cost_usd:.3f}")


if __name__ == "__main__":
    main()
