"""What the numbers are called in plain words, and what they do not show. Tables of text, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from equiframe.benchmarks import suite


class Term(NamedTuple):
    """A number's plain name, how to read it, and whether it splits or restates another of its benchmark."""

    name: str
    reading: str
    is_derived: bool = False


class Pair(NamedTuple):
    """Where a per-item table keeps two candidates: columns of their sentences and scores, and the group."""

    more: str
    less: str
    more_score: str
    less_score: str
    score: str
    group: str = "bias_type"


class About(NamedTuple):
    """What a reader must know of a benchmark; its terms are by the last part of a measure's key."""

    title: str
    does_not_show: str
    terms: Mapping[str, Term] = {}
    sources: tuple[tuple[str, str], ...] = ()
    pair: Pair | None = None


COLLAPSE = "collapse"
"""What geometry is called where benchmarks have their name; the class set is its variant."""

CONTEXTS = "contexts"
"""The same for contexts and their counterfactuals; the bias is its variant."""

COLLAPSE_VALUES: dict[str, tuple[float | None, bool]] = {
    "unc3": (0.0, False),
    "nc3_self_duality": (1.0, True),
    "nc1_cdnv_mean": (0.0, False),
    "nc1_log_cdnv_mean": (None, False),
    "nc2_norm_cv": (0.0, False),
    "nc2_etf_angle_mean": (0.0, False),
    "nc2_etf_angle_std": (0.0, False),
    "gnc2_log_mean": (None, False),
    "gnc2_log_cv": (0.0, False),
    "nc4_agreement": (1.0, True),
}
"""The principal collapse values in the order shown: the ideal, and whether higher is more collapsed."""

_BLODGETT = ("Blodgett et al. 2021", "https://aclanthology.org/2021.acl-long.81")

PRICE = "Price in language and time"
"""What the section of language understanding and time is called."""

BENCHMARKS: dict[str, About] = {
    COLLAPSE: About(
        "Geometry: neural collapse",
        "Geometry is not behaviour: a lower (U)NC3 does not by itself mean that predictions treat groups"
        " alike. Intervals resample words, so they speak of this list of words on this text. Sets of"
        " different size are not comparable with each other: compare runs within a set.",
        {
            "unc3": Term("(U)NC3, uniform duality", "spread of the cosines between word means and word embeddings"),
            "nc3_self_duality": Term("NC3, self-duality", "mean cosine between word means and word embeddings"),
            "nc1_cdnv_mean": Term(
                "NC1, variability (CDNV)",
                "scatter within words over distance between words, mean over pairs",
            ),
            "nc1_log_cdnv_mean": Term(
                "NC1, variability (log CDNV)", "mean of its logarithm, which a few close pairs move less"
            ),
            "nc2_norm_cv": Term("NC2, equal norms", "spread over mean of the lengths of the word means"),
            "nc2_etf_angle_mean": Term(
                "NC2, equal angles (mean)",
                "distance of the cosines between word means from a simplex frame's",
            ),
            "nc2_etf_angle_std": Term("NC2, equal angles (spread)", "standard deviation of that distance over pairs"),
            "gnc2_log_mean": Term(
                "GNC2, uniformity (mean)", "mean of log(1 / distance) between the directions of word means"
            ),
            "gnc2_log_cv": Term("GNC2, uniformity (spread)", "spread over mean of that logarithm over pairs"),
            "nc4_agreement": Term(
                "NC4, decision agreement",
                "share of tokens whose nearest word mean is the word the classifier decides for",
            ),
        },
        (
            ("Xu et al. 2025", "https://arxiv.org/abs/2410.04472"),
            ("Wu and Papyan 2024", "https://arxiv.org/abs/2405.17767"),
        ),
    ),
    CONTEXTS: About(
        "Contexts and their counterfactuals",
        "A text and the same text with the words of two groups swapped are read side by side. Swapping knows no"
        " grammar, and a swapped text may be odd. Agreement is no bias: where it falls, the model has gone blind to"
        " what the text says.",
        {
            "cc1_js": Term(
                "CC1, variability of predictions",
                "Jensen-Shannon divergence of what follows in the two texts, words of the groups left out",
            ),
            "cc1_states": Term(
                "CC1, variability of states",
                "half the squared distance of the two states over that from the mean of all",
            ),
            "cc3_log_odds": Term(
                "CC3, pair duality (log-odds)", "size of the preference between two counterparts in a neutral context"
            ),
            "cc3_cosine_gap": Term(
                "CC3, pair duality (cosines)", "how much nearer a neutral context lies to one of two counterparts"
            ),
            "agreement": Term("agreement with the context", "share of later swapped words where the agreeing one wins"),
            "agreement_log_odds": Term("log-odds of the agreeing word", "mean over later swapped words", True),
        },
        (("Qian et al. 2019", "https://aclanthology.org/P19-2031"),),
    ),
    "stereoset": About(
        "StereoSet",
        "Balance over these items is not equal treatment in use. The sentences are crowd-written in the"
        " United States; many are malformed, or are no stereotype at all. The ideal of 50 assumes that the"
        " two words of an item differ in stereotype alone, while frequency and number of tokens differ too.",
        {
            "ss": Term("stereotype score (SS)", "share of items where the stereotype is preferred"),
            "lms": Term(
                "language modelling score (LMS)",
                "share of comparisons where sense is preferred to nonsense",
            ),
            "icat": Term("ICAT", "LMS, scaled down by the distance of SS from 50"),
        },
        (("Nadeem et al. 2021", "https://aclanthology.org/2021.acl-long.416"), _BLODGETT),
        Pair(
            "stereotype_sentence",
            "anti_sentence",
            "stereotype",
            "anti",
            "probability",
        ),
    ),
    "crows_pairs": About(
        "CrowS-Pairs",
        "Balance over these pairs is not equal treatment in use. Many pairs are not minimal, state no"
        " stereotype, or mix several, and the authors advise against relying on the data set. Its variants"
        " give different numbers: none can be compared with another's.",
        {
            "metric": Term("preference for the stereotyping sentence", "share of pairs where it scores higher"),
            "stereotype_score": Term(
                "preference in stereotype pairs", "the same over pairs that state a stereotype", True
            ),
            "anti_stereotype_score": Term(
                "preference in anti-stereotype pairs", "the same over pairs that go against one", True
            ),
            "neutral": Term("ties", "share of pairs where both sentences score alike", True),
        },
        (("Nangia et al. 2020", "https://aclanthology.org/2020.emnlp-main.154"), _BLODGETT),
        Pair("sent_more", "sent_less", "more", "less", "log-probability"),
    ),
    "aul": About(
        "All Unmasked Likelihood",
        "Balance over these pairs is not equal treatment in use. The sentences are those of CrowS-Pairs or StereoSet,"
        " with their faults. To predict a word that is in view is not what a masked model is used for.",
        {"metric": Term("preference for the stereotyping sentence", "share of pairs where it scores higher")},
        (
            ("Kaneko and Bollegala 2022", "https://arxiv.org/abs/2104.07496"),
            ("Nangia et al. 2020", "https://aclanthology.org/2020.emnlp-main.154"),
            _BLODGETT,
        ),
        Pair("stereotype_sentence", "anti_sentence", "stereotype", "anti", "mean log-probability"),
    ),
    "redditbias": About(
        "RedditBias",
        "The phrases are short, from one platform, and about five pairs of groups. Their counterfactuals were made by"
        " replacing words, and a group's words may be rarer whatever is said of it.",
        {
            "prefers_minoritised": Term(
                "preference for the minoritised group",
                "share of pairs where the biased phrase is likelier about the minoritised group",
            ),
            "log_ratio": Term(
                "log ratio of perplexities", "minoritised over dominant group; below 0 the former is likelier"
            ),
            "t": Term("Student's paired t", "of the perplexities, minoritised minus dominant group"),
            "p": Term("p-value", "two-sided, of that t", True),
        },
        (("Barikeri et al. 2021", "https://arxiv.org/abs/2106.03521"),),
    ),
    "pairs": About(
        "Your pairs",
        "The numbers speak of these pairs. The ideal of 50 assumes that the sentences of a pair differ in the group"
        " alone, while the frequency and number of their words differ too.",
        {
            "prefers_stereotype": Term(
                "preference for the stereotype", "share of pairs where it scores higher; a tie is half of one"
            ),
            "difference": Term("difference", "mean score of the stereotype minus that of the other sentence"),
        },
        pair=Pair("stereotype_sentence", "anti_sentence", "stereotype", "anti", "log-probability", "group"),
    ),
    "agreement": About(
        "Agreement",
        "No measure of bias, but of what has to be kept: a model can be made fair by making it blind to the gender that"
        " a text gives. Most of its sentences are simple templates.",
        {
            "agreement": Term("agreement with the context", "share of items where the agreeing word is more likely"),
            "log_odds": Term("log-odds of the agreeing word", "mean over the items", True),
        },
        (("Webster et al. 2018 (GAP)", "https://aclanthology.org/Q18-1042"),),
    ),
    "lm_loss": About(
        "Held-out text",
        "The text is Wikipedia alone, and only models of one tokenizer can be compared. A model fine-tuned on"
        " gender-swapped text may lose likelihood on gendered names, which this cannot tell from a loss of"
        " language.",
        {
            "loss": Term("language-modelling loss", "mean negative log-likelihood of a held-out token"),
            "perplexity": Term("perplexity", "exponential of the language-modelling loss", True),
        },
        (("Webster et al. 2018", "https://aclanthology.org/Q18-1042"),),
    ),
    "stereoset_intersentence": About(
        "StereoSet, intersentence",
        "Balance over these items is not equal treatment in use. The three sentences differ in length and in all of"
        " their words: how common each is by itself moves the score, and many state no stereotype.",
        {
            "ss": Term("stereotype score (SS)", "share of items where the stereotype is preferred"),
            "lms": Term("language modelling score (LMS)", "share of comparisons where sense is preferred to nonsense"),
            "icat": Term("ICAT", "LMS, scaled down by the distance of SS from 50"),
        },
        (("Nadeem et al. 2021", "https://aclanthology.org/2021.acl-long.416"), _BLODGETT),
        Pair("stereotype_sentence", "anti_sentence", "stereotype", "anti", "log-probability"),
    ),
    "bec_pro": About(
        "BEC-Pro",
        "Five templates, 60 professions and two genders. The pairs of a profession are alike and the tests take them as"
        " independent: p-values are too small. In German grammar alone ties profession to person.",
        {
            "bias": Term("bias", "how much more male professions than female ones raise male over female persons"),
            "female_person": Term("association with women", "mean over the pairs of a kind of profession", True),
            "male_person": Term("association with men", "mean over the pairs of a kind of profession", True),
            "difference": Term("difference", "association of female minus that of male persons", True),
            "wilcoxon_p": Term("p-value", "of a Wilcoxon test of female against male persons", True),
            "effect_size_r": Term("effect size r", "of that test", True),
            "effect_size_w": Term("effect size W / sqrt(n)", "of that test, as the authors report it", True),
        },
        (("Bartl et al. 2020", "https://aclanthology.org/2020.gebnlp-1.1"),),
    ),
    "winobias_pronoun": About(
        "WinoBias, pronouns",
        "No pronoun is resolved here: this says which pronoun a model expects near an occupation. Two genders, 40"
        " occupations, official figures of the United States as the stereotype.",
        {
            "pro": Term("pro-stereotypical pronoun expected", "share of sentences that fit the stereotype", True),
            "anti": Term("anti-stereotypical pronoun expected", "share of sentences that go against it", True),
            "gap": Term("gap", "the former minus the latter"),
            "stereotype_preference": Term("preference for the stereotype", "share of pairs where it scores higher"),
            "log_odds": Term("log-odds of the stereotype", "mean over the pairs"),
        },
        (("Zhao et al. 2018", "https://aclanthology.org/N18-2003"),),
    ),
    "winogender": About(
        "Winogender",
        "Two or four sentences an occupation are few, and wording sways them. The correlation is with shares of women"
        " in occupations of the United States: a model that mirrors the labour market scores high.",
        {
            "correlation": Term("correlation with the share of women", "of the log-odds of a female pronoun"),
            "rank_correlation": Term("rank correlation with the share of women", "the same of ranks", True),
            "log_odds": Term("log-odds of a female pronoun", "mean over the sentences"),
            "absolute_log_odds": Term("size of the log-odds", "mean without sign; any noise raises it", True),
            "prefers_male": Term("preference for the male pronoun", "share of sentences where it scores higher"),
        },
        (("Rudinger et al. 2018", "https://aclanthology.org/N18-2002"),),
    ),
    "lpbs": About(
        "Log-probability bias score",
        "One template of four words: a score says how these words are read and no more.",
        {
            "difference": Term("difference", "score of female minus that of male occupations"),
            "effect_size": Term("effect size", "that difference over the spread of the scores"),
            "female_occupations": Term("female occupations", "log-odds of She to He that the occupation adds", True),
            "male_occupations": Term("male occupations", "log-odds of She to He that the occupation adds", True),
            "correlation": Term("correlation with the share of women", "of an occupation's score", True),
        },
        (("Kurita et al. 2019", "https://aclanthology.org/W19-3823"),),
    ),
    "seat": About(
        "SEAT",
        "Templated sentences of one word are taken as independent: p-values and intervals are far too sure. A mean of"
        " absolute effects is above 0 for any sample, and their size may be large where every difference is tiny.",
        {
            "mean_absolute_effect_size": Term("mean absolute effect size", "over the tests of a bias"),
            "effect_size": Term("effect size", "of one test", True),
            "p_value": Term("p-value", "of a permutation test, one-sided", True),
        },
        (("May et al. 2019", "https://aclanthology.org/N19-1063"),),
    ),
    "bbq": About(
        "BBQ",
        "Where accuracy on disambiguated questions is near 33 %, a model does not answer questions, and its bias says"
        " little. Questions of one template are near copies, and tell of stereotypes known in the United States.",
        {
            "accuracy_ambiguous": Term("accuracy, ambiguous", "share answered with unknown, as is right"),
            "bias_ambiguous": Term("bias, ambiguous", "above 0 towards the stereotype; scaled by the errors"),
            "accuracy_disambiguated": Term("accuracy, disambiguated", "share answered as the text says"),
            "bias_disambiguated": Term("bias, disambiguated", "above 0 towards the stereotype"),
        },
        (("Parrish et al. 2022", "https://aclanthology.org/2022.findings-acl.165"),),
    ),
    "unqover": About(
        "UnQover",
        "Means of few names do not vanish for a fair model: compare models only. Two genders.",
        {
            "mu": Term("intensity of bias", "mean size of the preference over subjects and attributes"),
            "eta": Term("count of bias", "how consistently one gender is preferred, by occupation"),
            "gamma": Term("preference", "mean with its sign; above 0 for the first gender"),
            "positional": Term("positional error", "how much the order of the names moves answers", True),
            "attributive": Term("attributive error", "how much a negated question fails to move answers", True),
        },
        (("Li et al. 2020", "https://aclanthology.org/2020.findings-emnlp.311"),),
    ),
    "honest": About(
        "HONEST",
        "A lexicon knows no context: it has words that hurt in some uses only, and misses what hurts without such a"
        " word. Men and women, or queer identities, in short templates.",
        {f"honest_{k}": Term(f"hurtful words among {k}", "share of the likeliest completions") for k in (1, 5, 20)},
        (("Nozza et al. 2021", "https://aclanthology.org/2021.naacl-main.191"),),
    ),
    "winobias_coreference": About(
        "WinoBias, coreference",
        "Who the people of a sentence are is given, so it is easier than coreference in a text. A model that resolves"
        " nothing has no gap either. Of one seed of fine-tuning: the intervals say nothing of another.",
        {
            "f1": Term("F1", "of one set, from its accuracy"),
            "accuracy": Term("accuracy", "share of pronouns resolved rightly", True),
            "tpr_1": Term("gap, type 1", "F1 of pro- minus anti-stereotypical sentences; needs world knowledge"),
            "tpr_2": Term("gap, type 2", "F1 of pro- minus anti-stereotypical sentences; syntax tells"),
            "accuracy_gap": Term("gap of accuracies", "pro- minus anti-stereotypical sentences", True),
        },
        (("Zhao et al. 2018", "https://aclanthology.org/N18-2003"),),
    ),
    "bias_nli": About(
        "Bias-NLI",
        "Wooden templates of occupations and genders, far from what a model is fine-tuned on here; of one seed of"
        " fine-tuning.",
        {
            "nn": Term("net neutral", "mean probability of neutral"),
            "fn": Term("fraction neutral", "share of pairs where neutral is likeliest"),
            "t50": Term("neutral above 0.5", "share of pairs"),
            "t70": Term("neutral above 0.7", "share of pairs", True),
            "accuracy": Term("accuracy on inference", "of the fine-tuned model on its own test set"),
        },
        (("Dev et al. 2020", "https://arxiv.org/abs/1908.09369"),),
    ),
    "bias_in_bios": About(
        "Bias in Bios",
        "Gender was inferred from pronouns, as one of two; biographies from the web. Of one seed of fine-tuning.",
        {
            "accuracy": Term("accuracy", "share of occupations found"),
            "tpr_gap": Term("gap", "share found of men minus of women, over all biographies"),
            "tpr_gap_macro": Term("gap, mean over occupations", "men minus women", True),
            "tpr_rms": Term("root mean square gap", "over occupations; above 0 by chance where there are few"),
        },
        (("De-Arteaga et al. 2019", "https://arxiv.org/abs/1901.09451"),),
    ),
    **{
        name: About(
            title,
            "Of one seed of fine-tuning: on small tasks another seed moves the figure by points, of which the interval"
            " over examples says nothing.",
            {
                "accuracy": Term("accuracy", "share of examples"),
                "matthews": Term("Matthews correlation", "times 100"),
                "pearson": Term("Pearson correlation", "times 100"),
                "spearman": Term("Spearman correlation", "times 100"),
                "f1": Term("F1", "of the positive class, times 100"),
            },
            (("Wang et al. 2019", "https://openreview.net/forum?id=rJ4km2R5t7"),),
        )
        for name, title in {
            "cola": "CoLA, acceptability",
            "sst2": "SST-2, sentiment",
            "mrpc": "MRPC, paraphrase",
            "stsb": "STS-B, similarity",
            "qqp": "QQP, duplicate questions",
            "mnli": "MNLI, inference",
            "qnli": "QNLI, answers",
            "rte": "RTE, inference",
            "wnli": "WNLI, pronouns",
        }.items()
    },
}
"""Benchmarks by name without variant."""

HISTORY: dict[str, Term] = {
    "loss": Term("Loss", "of the whole objective"),
    "language_modelling": Term("Language-modelling loss", "the host method's own loss"),
    "unc3": Term("(U)NC3 over fine-tuning", "of the term's running word means, before its weight"),
    "mean_cosine": Term("NC3 over fine-tuning", "mean cosine of the running word means and word embeddings"),
}
"""Columns of the training history."""


def about(benchmark: str) -> About:
    """What is known of a benchmark, by its name with variant."""
    base, _, variant = benchmark.partition(":")
    known = BENCHMARKS.get(base) or About(
        base, "A number on these items speaks of these items, not of the model in use."
    )
    if base == COLLAPSE and variant:
        return known._replace(title=class_set_name(variant))
    return known._replace(title=f"{known.title} ({variant})") if variant else known


def is_geometry(benchmark: str) -> bool:
    """Whether a compared benchmark is a class set, or contexts."""
    return benchmark.partition(":")[0] in (COLLAPSE, CONTEXTS)


def is_price(benchmark: str) -> bool:
    """Whether a benchmark measures what the model understands of language, which debiasing may cost."""
    return benchmark.partition(":")[0] in suite("nlu")


def split_key(key: str) -> tuple[str, str]:
    """A measure's key as group, in words, and kind: ``race-color.ss`` becomes ``("race color", "ss")``."""
    group, _, kind = key.rpartition(".")
    return plain(group), kind


def term(benchmark: str, key: str) -> Term:
    """The plain name of a measure, whatever its group; the key itself where it has none."""
    kind = split_key(key)[1]
    return about(benchmark).terms.get(kind, Term(plain(kind), ""))


def class_set_name(class_set: str) -> str:
    """``vocabulary`` as "whole vocabulary", a word set as "... words"."""
    return "whole vocabulary" if class_set == "vocabulary" else f"{plain(class_set)} words"


def plain(name: str) -> str:
    """An identifier as words: ``physical-appearance`` becomes ``physical appearance``."""
    return name.replace("_", " ").replace("-", " ")


def sentence_case(name: str) -> str:
    """The first letter as a capital, the others as they are."""
    return name[:1].upper() + name[1:]
