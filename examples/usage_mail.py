"""A mail each night about what yesterday cost: run it from cron. Here it is printed instead of sent."""

from datetime import datetime, timedelta
from email.message import EmailMessage
from zoneinfo import ZoneInfo

from statestore import NewEntry, StateStore, Usage

TZ = "Europe/Berlin"


def mail(store: StateStore) -> EmailMessage:
    today = datetime.now(ZoneInfo(TZ)).date()
    period = {"since": today - timedelta(days=1), "until": today, "tz": TZ}
    total = store.usage.totals(**period)
    lines = [
        f"{row.user_id or 'no user':<12} {f'${row.cost_usd or 0:.2f}':>9}" for row in store.usage.by_user(**period)
    ]
    if total.unpriced_calls:
        of = f"{total.unpriced_calls} of {counted(total.model_calls, 'call')}"
        lines.append(f"\nWithout a price, and not in these sums: {of}.")
    message = EmailMessage()
    used = f"{counted(total.model_calls, 'call')}, {counted(total.errors, 'error')}"
    message["Subject"] = f"Agents: ${total.cost_usd or 0:.2f} for {used}"
    message["From"], message["To"] = "agents@example.com", "team@example.com"
    message.set_content("\n".join(lines))
    # `smtplib.SMTP(host).send_message(message)` sends it.
    return message


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main() -> None:
    noon = datetime.now(ZoneInfo(TZ)).replace(hour=12, minute=0) - timedelta(days=1)
    with StateStore.open("sqlite://") as store:
        for user, cost in (("ada", 1.25), ("grace", 0.5), ("ada", None)):
            store.sessions.create(f"{user}-{cost}", user_id=user)
            usage = Usage(input_tokens=1000, output_tokens=100)
            entry = NewEntry({"role": "assistant", "content": "…"}, usage=usage, cost_usd=cost, created_at=noon)
            store.history.append(f"{user}-{cost}", [entry])
        message = mail(store)
        print(message["Subject"])
        print(message.get_content())


if __name__ == "__main__":
    main()
