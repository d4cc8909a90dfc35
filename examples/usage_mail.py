"""A mail each night about what yesterday cost: run it from cron. Here it is printed instead of sent."""

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

from statestore import NewEntry, StateStore, Usage


def mail(store: StateStore, *, tz: str = "Europe/Berlin") -> EmailMessage:
    today = datetime.now(UTC).date()
    period = {"since": today - timedelta(days=1), "until": today, "tz": tz}
    total = store.usage.totals(**period)
    lines = [f"{row.user_id or 'no user':<12} ${row.cost_usd or 0:>8.2f}" for row in store.usage.by_user(**period)]
    if total.unpriced_calls:
        lines.append(f"\n{total.unpriced_calls} calls have no price, and are not in this.")
    message = EmailMessage()
    message["Subject"] = f"Agents: ${total.cost_usd or 0:.2f} for {total.model_calls} calls, {total.errors} errors"
    message["From"], message["To"] = "agents@example.com", "team@example.com"
    message.set_content("\n".join(lines))
    # `smtplib.SMTP(host).send_message(message)` sends it.
    return message


def main() -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0) - timedelta(days=1)
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
