"""``fraudml stream``: the topics of Kafka, and how far their readers are."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson
from fraudml.settings import settings

if TYPE_CHECKING:
    from fraudml.settings import Settings

app = typer.Typer(help="Make the topics of Kafka, show how far they are read.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="stream")


@app.command("init")
def init(
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each new topic.")] = 12,
    replication: Annotated[int, typer.Option(min=1, help="Brokers that keep each new topic.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing; those that are there stay as they are."""
    current = settings()
    administration = wiring.administration(current)
    wanted = wiring.stream_topics(current)
    there = administration.cluster().topics
    made = administration.create([topic for topic in wanted if topic not in there], partitions, replication)
    there = dict.fromkeys(made, partitions) | there
    if as_json:
        output.result({"topics": {topic: there.get(topic, partitions) for topic in wanted}, "made": made})
        return
    rows = [[topic, str(there.get(topic, partitions)), "made" if topic in made else "was there"] for topic in wanted]
    output.table(["topic", "partitions", ""], rows)
    if not made:
        output.results.print("All topics are there.")


@app.command("status")
def status(as_json: AsJson = False) -> None:
    """Show brokers, topics, the workers' group and how far it is behind, and the dead letters that wait.

    Exit code 1 when topics are missing.
    """
    current = settings()
    administration = wiring.administration(current)
    cluster = administration.cluster()
    wanted = wiring.stream_topics(current)
    missing = [topic for topic in wanted if topic not in cluster.topics]
    members = [
        {"topic": topic, **member._asdict()}
        for topic, group in wiring.workers_groups(current).items()
        for member in administration.members(group)
    ]
    behind = _behind(current, cluster.topics)
    dead = _dead(current, cluster.topics)
    document: dict[str, Any] = {
        "brokers": cluster.brokers,
        "topics": {topic: cluster.topics[topic] for topic in wanted if topic in cluster.topics},
        "missing": missing,
        "group": current.kafka_group,
        "members": members,
        "lag": behind,
        "dead_letters": dead,
    }
    if as_json:
        output.result(document)
    else:
        _show(document)
    if missing:
        raise typer.Exit(1)


def _behind(current: Settings, topics: dict[str, int]) -> list[dict[str, Any]]:
    """Where the workers' groups are in each partition that they read, and what of it waits."""
    found = []
    for topic, group in wiring.workers_groups(current).items():
        with closing(wiring.topic_reader(current, group)) as reader:
            at = reader.committed([(topic, number) for number in range(topics.get(topic, 0))])
            spans = reader.spans(at)
        found += [
            {
                "topic": topic,
                "partition": number,
                "offset": offset,
                "end": spans[topic, number][1],
                "lag": spans[topic, number][1] - spans[topic, number][0],
            }
            for (_, number), offset in at.items()
        ]
    return found


def _dead(current: Settings, topics: dict[str, int]) -> dict[str, int]:
    """How many dead letters wait, by topic: they are counted, as offsets count more than messages."""
    found = {}
    with closing(wiring.topic_reader(current, wiring.dead_letter_group(current))) as reader:
        for topic in wiring.dead_letter_topics(current):
            places = [(topic, number) for number in range(topics.get(topic, 0))]
            if places:
                found[topic] = sum(1 for _ in reader.read(reader.committed(places)))
    return found


def _show(document: dict[str, Any]) -> None:
    topics = {topic: str(count) for topic, count in document["topics"].items()}
    output.results.print(f"Brokers: {', '.join(document['brokers'])}", markup=False)
    rows = [
        [topic, count, "" if (dead := document["dead_letters"].get(topic)) is None else f"{dead} dead letters wait"]
        for topic, count in topics.items()
    ]
    output.table(["topic", "partitions", ""], [*rows, *([topic, "missing", ""] for topic in document["missing"])])
    members = document["members"]
    output.results.print(f"Group {document['group']}: {len(members)} members", markup=False)
    for member in members:
        has = f"{member['partitions']} partitions of {member['topic']}"
        output.results.print(f"  {member['name']} ({member['host']}): {has}", markup=False)
    lag = [
        [each["topic"], *(str(each[name]) for name in ("partition", "offset", "end", "lag"))]
        for each in document["lag"]
    ]
    if lag:
        output.table(["topic", "partition", "offset", "end", "lag"], lag)
    if document["missing"]:
        output.results.print("Run: fraudml stream init")
