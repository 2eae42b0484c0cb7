"""Which earlier texts a lane shows, and which of its texts stay together."""

from data.document import Document, Turn
from data.generator import Completion
from data.synthesis.config import SynthesisConfig
from data.synthesis.rounds import Text, run_rounds
from data.tally import Tally
from tests.data.synthesis import made


def texts(count: int) -> list[Text]:
    found = []
    for n in range(count):
        document = Document(f"{n:02d}", (Turn("text", made.text_of(n)),), "made")
        found.append(Text(document, made.text_of(n), None, document.id))
    return found


def lanes_of(count: int, rounds: int, silent: set[int] = frozenset(), most_shots: int = 99):
    """Lanes, what each prompt showed, and the counts; a window of so many examples."""
    said: dict[int, list[int]] = {}

    def number(text: str) -> int:
        return int(text.split()[1])

    def generate(prompts):
        for prompt in prompts:
            written = prompt.turns[0].text
            shown = [number(part) for part in written.split("<CON>")[1:]]
            said[shown[-1]] = shown[:-1]
            output = "<QUE> Which organ is the report about? <ANS> " + next(
                organ for organ in made.ORGANS if f"the {organ} of" in made.last_text(prompt)
            )
            done = f"{output} </END>" if shown[-1] not in silent else "nothing"
            yield Completion(prompt.id, done, "stop")

    config = SynthesisConfig(rounds=rounds, window=4000, max_new_tokens=400)
    tally = Tally("x")
    lanes = list(
        run_rounds(
            texts(count), config, generate=generate, tally=tally,
            count_tokens=lambda text: 3600 if text.count("<CON>") <= 1 + most_shots else 3601,
        )
    )  # fmt: skip
    names = [[(int(e.text.name), e.linked, len(e.tasks)) for e in lane] for lane in lanes]
    return names, said, tally.counts["synthesis"]


def test_a_lane_shows_all_it_has():
    lanes, said, counts = lanes_of(8, 4)
    assert lanes == [
        [(0, False, 1), (2, True, 1), (4, True, 1), (6, True, 1)],
        [(1, False, 1), (3, True, 1), (5, True, 1), (7, True, 1)],
    ]
    assert said[6] == [0, 2, 4]
    assert said[5] == [1, 3]
    assert counts["prompts"] == {"new": 2, "follows": 6}


def test_a_text_without_pairs_is_not_shown_and_links_nothing():
    lanes, said, counts = lanes_of(4, 4, silent={1})
    assert lanes == [[(0, False, 1), (1, False, 0), (2, False, 1), (3, True, 1)]]
    assert said == {0: [], 1: [0], 2: [], 3: [2]}
    assert counts["prompts"] == {"new": 1, "follows": 2, "restarts: no pairs before": 1}


def test_a_full_window_begins_the_lane_anew():
    """What was not shown before the restart is not shown after it either."""
    lanes, said, counts = lanes_of(6, 6, most_shots=2)
    assert said == {0: [], 1: [0], 2: [0, 1], 3: [], 4: [3], 5: [3, 4]}
    assert [linked for _, linked, _ in lanes[0]] == [False, True, True, False, True, True]
    assert counts["prompts"] == {"new": 1, "follows": 4, "restarts: window full": 1}


def test_uneven_numbers_leave_short_lanes():
    lanes, said, _ = lanes_of(7, 3)
    assert [[name for name, _, _ in lane] for lane in lanes] == [[0, 3, 6], [1, 4], [2, 5]]
    assert lanes_of(2, 3)[0] == [[(0, False, 1), (1, True, 1)]]
    assert lanes_of(1, 3)[0] == [[(0, False, 1)]]
    assert len(said) == 7
