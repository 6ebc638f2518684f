"""Recurring evidence, tested: does it bring its class elsewhere, does the class go without it, and is it a shortcut?

Each cluster of parts is tested in these ways, on at most `TESTED` of its members; several parts of one image are one
member, and what is hidden gets the image's mean colour. Where fewer than five images of the class lack the evidence,
the control of `loses` is as large a part elsewhere in the same image. Of surroundings it is all that surrounds the
object of an image where that is as large.

| test | what is done | control | holds where |
|---|---|---|---|
| **brings** | a member is pasted at its place on others' images | that place of another image | it raises more |
| **loses** | a member is hidden, with the place of all | that place of images of the class without it | it costs more |
| **common** | only what members have in common is pasted (`common.py`) | the member | it raises over half of it |
| **outside** | | | most of most members is outside of the object's box |
| **beside** | as common, learned outside of the boxes, where most of these leave room | the member | the same |
| **frequent** | surroundings alone | images of other classes | they are more common in the class |

What raises and costs is counted in the class's log-odds, which also tell where two things in an image speak for
different classes; how often the class itself comes and goes is reported beside it.

An object passes the first two as well: a cat's face brings "cat". What makes a **shortcut** of evidence that does is
that it is not the object. Two facts can show it, and without one of them nothing is decided:

- with boxes: most members lie outside of them, or what brings the class is the same in its members pixel by pixel and
  at the same place outside of them. Either will do, so the two are one test (Simes 1986);
- without: what brings the class is the same in its members pixel by pixel and at the same place, which no object is
  that moves or varies; and some images of the class do not have it.

Each cluster has one p-value, the largest of its tests', as all of them have to hold (Berger 1982, intersection-union),
and 1 where nothing can tell it from the object; over all clusters of all classes the false discovery rate is held at 5%
(Benjamini and Hochberg 1995). What the tests can reach of so few images may be above that (`none_can_be_shown`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.audit.common import Common, common_of
from suffice.audit.findings import Rate
from suffice.audit.parts import Part, joined, where_of
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.audit.surroundings import Recurring, Surroundings
from suffice.audit.trials import HOSTS, KINDS, Trials, trials_of
from suffice.classifier import Classifier

FALSE_DISCOVERIES = 0.05
"""Share of what is called a shortcut that may be none, in expectation."""

PART, SURROUNDINGS = "part", "surroundings"
"""What a cluster is of."""

AROUND = "around the object"
"""Where surroundings are."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One cluster of parts, and what its tests showed.

    Attributes:
        name: class and number, such as `horse 2`.
        kind: of its members, `PART` or `SURROUNDINGS`.
        target, target_name: class that it speaks for.
        members: images whose part it is, of all whose class is this one.
        where: in the frame, in words; place: mean row and column in [0, 1]; area: mean share of the image.
        raises: members that, pasted, raise the class's log-odds more than their control, of those that change them.
        brings, brings_control: pastes that bring the class, on images of other classes.
        loses, loses_control: members whose class goes when it is hidden, of surroundings those that have a control.
        rise, fall: by how much pasting raises the class's log-odds, and hiding lowers them, each more than its control,
            in nats, a mean.
        common: members with which what all have in common raises the log-odds more than half as much as they do.
        outside: members of which most lies outside of the object's box; None where no box is known.
        elsewhere: of surroundings, images of other classes that have them.
        without: images of the class, as labelled, that do not have it, of those that are no members.
        right_with, right_without: accuracy on images of the class that have it, and that do not.
        p_values: of each test, by name; p_value: the largest of the first two's, of `frequent`, and of that which tells
            it from the object: of `common`, or where most members have a box of `outside` and `beside` together;
            decided_by: the smaller of these. 1 where no box decides and fewer than two images of the class are without
            it.
        least_p: the least that p_value can be of so many images, whatever the model says.
        q_value: the least false discovery rate at which it is called a shortcut, among so many `clusters`.
        verdict: `shortcut`; `evidence`: it brings its class, and that it is no object was not shown; `not confirmed`.
        why: in a sentence.
        effect: mean of `rise` and `fall`.
        hosts: of each paste, host, member and donor of the control by name, and the class that came.
    """

    name: str
    target: int
    target_name: str
    members: Rate
    where: str
    place: tuple[float, float]
    area: float
    raises: Rate
    brings: Rate
    brings_control: Rate
    loses: Rate
    loses_control: Rate
    rise: float
    fall: float
    common: Rate
    outside: Rate | None
    without: Rate
    right_with: Rate
    right_without: Rate
    p_values: dict[str, float]
    p_value: float
    decided_by: str
    effect: float
    hosts: tuple[tuple[str, str, str, int], ...] = ()
    least_p: float = 0.0
    q_value: float = 1.0
    clusters: int = 1
    verdict: str = "not confirmed"
    why: str = ""
    kind: str = PART
    elsewhere: Rate | None = None

    @property
    def everywhere(self) -> bool:
        """Whether nothing can tell it from the object: no box, and hardly an image of the class without it."""
        return self.decided_by == "common" and self.without.count < _WITHOUT

    @property
    def of_members(self) -> str:
        """How many members of what it has."""
        return f"{self.members.counts} {'parts' if self.kind == PART else 'images'}"


def sign_test(differences: npt.ArrayLike) -> float:
    """One-sided p-value of the sign test: that differences are above 0 no more often than below; zeros are left out.

    >>> sign_test([1, 2, 0.5, 3, 1]), sign_test([0, 0])
    (0.03125, 1.0)
    """
    signs = np.sign(np.asarray(differences, dtype=float))
    return above_half(int((signs > 0).sum()), int(np.count_nonzero(signs)))


def more_than(values: npt.ArrayLike, controls: npt.ArrayLike) -> float:
    """One-sided p-value of Mann and Whitney's test: that values are no larger than those of the controls.

    >>> more_than([3, 4, 5, 6, 7], [0, 1, 2, 1, 0]) < 0.01, more_than([1, 1], [1, 1]) >= 0.5
    (True, True)
    """
    from scipy import stats

    first, second = np.asarray(values, dtype=float), np.asarray(controls, dtype=float)
    return float(stats.mannwhitneyu(first, second, alternative="greater").pvalue) if len(first) and len(second) else 1.0


def above_half(count: int, total: int) -> float:
    """One-sided p-value of the binomial test that a share is at most a half; 1 for no case.

    >>> above_half(5, 5)
    0.03125
    """
    from scipy import stats

    return float(stats.binomtest(count, total, 0.5, alternative="greater").pvalue) if total else 1.0


def either(one: float, other: float) -> float:
    """One p-value of two, that neither of two things is so (Simes 1986).

    >>> either(0.001, 0.5), either(0.03, 0.04)
    (0.002, 0.04)
    """
    return min(2 * min(one, other), max(one, other))


_ALL_OF = ("brings", "loses", "frequent")  # tests that have to hold, each where it is made
_DIGITS = 4  # of log-odds, in nats: that which is smaller is rounding, whose signs and ranks mean nothing
_WITHOUT = 2  # images of the class that have to be without a cluster that no box tells from the object
_BOXED = 0.5  # share of the members whose boxes have to be known, where these decide


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """What all clusters of a class are tested against.

    Attributes:
        labelled: images of the sample with this label, or, without labels, this prediction.
        others: images of the sample of other classes.
        of_class: parts of the class, members of any cluster or none.
        surroundings: of the objects of all images, where they are known.
        recurring: where members are such, these, and which images have others.
    """

    labelled: Sequence[Prediction]
    others: Sequence[Prediction]
    of_class: Sequence[Part]
    surroundings: Surroundings = dataclasses.field(default_factory=dict)
    recurring: Recurring | None = None


def population_of(
    target: int, parts: Sequence[Part], images: Sequence[Prediction], surroundings: Surroundings
) -> Population:
    """What a class's evidence is tested against, of the sample's images, their parts and the objects' surroundings."""
    labelled = [image for image in images if image.stratum == target]
    others = [image for image in images if image.stratum != target and image.predicted != target]
    of_class = [part for part in parts if part.target == target and part.usable]
    return Population(labelled, others, of_class, surroundings)


def tested(
    classifier: Classifier,
    name: str,
    members: Sequence[Part],
    population: Population,
    pictures: Pictures,
    random: np.random.Generator,
) -> Evidence:
    """One cluster of parts, tested.

    Args:
        classifier: which is asked about five images for each member at most, and host.
        name: of the cluster.
        members: its parts.
        population: that it is tested against.
        pictures: of all images.
        random: of every draw.
    """
    target = members[0].target
    names = [part.name for part in members]
    members = joined(members)
    around = population.recurring
    inside = [part.inside for part in members if part.inside is not None]
    boxed = len(inside) >= max(1, _BOXED * len(members))
    free = population.surroundings if boxed and around is None else None
    common = common_of([(part.image.number, part.mask) for part in members], population.others, pictures, random, free)
    has = _having(members, population, pictures, common) if around is None else _surrounded(members, population, around)
    rest = [image for image in has.lacking if image.predicted == target]
    kept = None if around is None else population.surroundings
    trials = trials_of(members, population.others, rest, pictures, common, random, kept)
    asked = _Answers(classifier, trials, target)
    p_values, least = asked.p_values(), _least(trials)
    outside = None
    if inside:
        where = [part.name for part in members if part.inside is not None and part.inside < 0.5]
        outside = Rate(len(where), len(inside), tuple(where))
        p_values["outside"] = above_half(len(where), len(inside))
        least["outside"] = above_half(len(inside), len(inside))
    if free is not None:
        p_values["beside"], least["beside"] = p_values.pop("common"), least.pop("common")
    if around is not None:
        p_values["frequent"] = around.p_value
    decided_by, p_value = _together(p_values, boxed, has.without.count)
    mean_area = float(np.mean([part.area for part in members]))
    return Evidence(
        name=name,
        target=target,
        target_name=classifier.class_name(target),
        members=Rate.of(names, [part.name for part in population.of_class]),
        where=where_of([part.centre for part in members], mean_area) if around is None else AROUND,
        place=_mean_place(members),
        area=mean_area,
        **asked.rates(),
        outside=outside,
        without=has.without,
        right_with=has.right_with,
        right_without=has.right_without,
        p_values=p_values,
        p_value=p_value,
        decided_by=decided_by,
        least_p=_together(least, boxed)[1],
        hosts=asked.pastes(),
        kind=PART if around is None else SURROUNDINGS,
        elsewhere=None if around is None else around.elsewhere,
    )


def _together(p_values: dict[str, float], boxed: bool, without: int = _WITHOUT) -> tuple[str, float]:
    """By which test a cluster is told from the object, and the p-value of all tests together."""
    decided_by, no_object = _no_object(p_values, boxed, without)
    return decided_by, max(no_object, *(p_values[test] for test in _ALL_OF if test in p_values))


def _least(trials: Trials) -> dict[str, float]:
    """The p-values of tests of so many images where each of them shows what is looked for.

    That of `frequent` is none of the largest: it counts all images of a class.
    """
    pasted = sign_test(np.ones(len(trials.members) if len(trials.pasted) else 0))
    controls = len(trials.controls)
    hidden = more_than(controls + np.arange(len(trials.hiding)), np.arange(controls))
    return {"brings": pasted, "loses": hidden, "common": pasted}


def _no_object(p_values: dict[str, float], boxed: bool, without: int) -> tuple[str, float]:
    if not boxed:
        # All images of the class have it: so may an object that always stands at the same place.
        return "common", p_values["common"] if without >= _WITHOUT else 1.0
    if "beside" not in p_values:
        return "outside", p_values["outside"]
    decided_by = min(("outside", "beside"), key=lambda test: p_values[test])
    return decided_by, either(p_values["outside"], p_values["beside"])


class _Answers:
    """What the model says of the trials of one cluster."""

    def __init__(self, classifier: Classifier, trials: Trials, target: int) -> None:
        self._trials = trials
        self._hosts = [host.name for some in trials.hosts for host in some]
        self._names = [part.name for part in trials.members]
        self._hiding = [part.name for part in trials.hiding]
        self._controls = [image.name for image in trials.controls]
        logits = {kind: images for kind in KINDS if len(images := getattr(trials, kind))}
        logits = {kind: classifier.logits(images) for kind, images in logits.items()}
        nothing = torch.zeros(0)
        controls = torch.tensor([image.predicted for image in trials.controls], dtype=torch.long)
        targets = dict.fromkeys(KINDS, torch.tensor(target)) | {"rest": controls, "hidden_control": controls}
        self._odds = dict.fromkeys(KINDS, nothing) | {
            kind: classifier.log_odds(each, targets[kind]).double().round(decimals=_DIGITS)
            for kind, each in logits.items()
        }
        self._top = {kind: nothing.long() for kind in KINDS} | {kind: each.argmax(1) for kind, each in logits.items()}
        self._came = {kind: top == targets[kind] for kind, top in self._top.items()}

    def p_values(self) -> dict[str, float]:
        """Of the tests that the model decides; pastes of one member count together."""
        return {
            "brings": sign_test(self._beyond_control().numpy()),
            "loses": more_than(*(falls.numpy() for falls in self._falls())),
            "common": sign_test(self._in_common().numpy()),
        }

    def _beyond_control(self) -> Tensor:
        """By member."""
        return (self._odds["pasted"] - self._odds["control"]).reshape(-1, HOSTS).mean(1)

    def _in_common(self) -> Tensor:
        """By how much what is common raises more than half of what the member does, by member."""
        return (self._raised("common") - self._raised("pasted") / 2).reshape(-1, HOSTS).mean(1)

    def _falls(self) -> tuple[Tensor, Tensor]:
        odds = self._odds
        return odds["own"] - odds["hidden"], odds["rest"] - odds["hidden_control"]

    def _raised(self, kind: str) -> Tensor:
        return self._odds[kind] - self._odds["plain"]

    def rates(self) -> dict[str, Any]:
        """How often the class comes and goes, and by how much its log-odds change."""
        odds, falls = self._odds, self._falls()
        rise, fall = _mean(odds["pasted"] - odds["control"]), _mean(falls[0]) - _mean(falls[1])
        return {
            "raises": self._signs(self._beyond_control()),
            "brings": Rate.where(self._came["pasted"].tolist(), self._hosts),
            "brings_control": Rate.where(self._came["control"].tolist(), self._hosts),
            "loses": Rate.where((~self._came["hidden"]).tolist(), self._hiding),
            "loses_control": Rate.where((~self._came["hidden_control"]).tolist(), self._controls),
            "common": self._signs(self._in_common()),
            "rise": rise,
            "fall": fall,
            "effect": (rise + fall) / 2,
        }

    def _signs(self, values: Tensor) -> Rate:
        """What the sign test of these values counts."""
        signs = values.sign().tolist()
        counted = [name for name, sign in zip(self._names, signs, strict=bool(signs)) if sign]
        return Rate.where([sign > 0 for sign in signs if sign], counted)

    def pastes(self) -> tuple[tuple[str, str, str, int], ...]:
        """Host, member, donor of the control and the class that came, of each paste."""
        members = [part.name for part, some in zip(self._trials.members, self._trials.hosts, strict=True) for _ in some]
        donors = [donor.name for some in self._trials.donors for donor in some]
        return tuple(zip(self._hosts, members, donors, self._top["pasted"].tolist(), strict=True))


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


class _Having(NamedTuple):
    """Which images of a class have what a cluster's members have in common, and how often the model is right there.

    `without` counts those that look less like it than most images of other classes; `lacking` are those that do not
    look more like it than 95% of these.
    """

    without: Rate
    lacking: list[Prediction]
    right_with: Rate
    right_without: Rate


def _having(members: Sequence[Part], population: Population, pictures: Pictures, common: Common) -> _Having:
    reference = [common.score(pictures(number)) for number in common.held_out]
    typical = float(np.median(reference)) if reference else float("-inf")
    most = float(np.quantile(reference, 0.95)) if reference else float("inf")
    own = {part.image.name for part in members}
    names = [image.name for image in population.labelled]
    right = {image.name for image in population.labelled if image.right}
    scores = {image.name: common.score(pictures(image.number)) for image in population.labelled}
    rest = [name for name in names if name not in own]
    having = [name for name in names if name in own or scores[name] > most]
    lacking = [image for image in population.labelled if image.name not in own and scores[image.name] <= most]
    return _Having(
        without=Rate.of([name for name in rest if scores[name] <= typical], rest),
        right_with=Rate.of([name for name in having if name in right], having),
        lacking=lacking,
        right_without=Rate.of([image.name for image in lacking if image.right], [image.name for image in lacking]),
    )


def _surrounded(members: Sequence[Part], population: Population, around: Recurring) -> _Having:
    """The same of surroundings, whose clusters say which images have them."""
    own = {part.name for part in members}
    having = [image for image in population.labelled if image.name in own]
    lacking = [image for image in around.rest if image.stratum == members[0].target]
    names = [image.name for image in lacking]
    return _Having(
        without=Rate.of(names, names),
        lacking=lacking,
        right_with=Rate.of([image.name for image in having if image.right], [image.name for image in having]),
        right_without=Rate.of([image.name for image in lacking if image.right], names),
    )


def decided(found: Sequence[Evidence], untested: int = 0) -> list[Evidence]:
    """The verdicts over all clusters together, the largest effects first, shortcuts before all others.

    Args:
        found: clusters that were tested.
        untested: how many there are besides that are not worth a test, each of p = 1.
    """
    from scipy import stats

    if not found:
        return []
    clusters = len(found) + untested
    q_values = _q_values([each.p_value for each in found], clusters)
    brings = stats.false_discovery_control([each.p_values["brings"] for each in found]).tolist()
    judged = []
    for each, q_value, brought in zip(found, q_values, brings, strict=True):
        each = dataclasses.replace(each, q_value=q_value, clusters=clusters)
        if q_value <= FALSE_DISCOVERIES:
            verdict, why = "shortcut", _why_shortcut(each)
        elif brought <= FALSE_DISCOVERIES:
            verdict, why = "evidence", _why_evidence(each)
        else:
            verdict, why = "not confirmed", _why_not_confirmed(each, brought)
        judged.append(dataclasses.replace(each, verdict=verdict, why=why))
    rank = {"shortcut": 0, "evidence": 1, "not confirmed": 2}
    return sorted(judged, key=lambda each: (rank[each.verdict], -each.effect, each.name))


def _q_values(p_values: Sequence[float], clusters: int) -> list[float]:
    """Of some of so many clusters; the others have p = 1."""
    from scipy import stats

    every = [*p_values, *[1.0] * (clusters - len(p_values))]
    return list(stats.false_discovery_control(every).tolist()[: len(p_values)])


def none_can_be_shown(found: Sequence[Evidence]) -> str:
    """Why none of the clusters could have been called a shortcut, whatever the model says; empty where one could."""
    clusters = found[0].clusters
    best = min(_q_values([each.least_p for each in found], clusters))
    if best > FALSE_DISCOVERIES:
        return (
            f"too few images to show a shortcut: over {clusters} cluster{'' if clusters == 1 else 's'} the tests reach "
            f"p = {min(each.least_p for each in found):.2g}, q = {best:.2g} at best, and a q of at most "
            f"{FALSE_DISCOVERIES} is asked for (--per-class explains more images, where there are more)"
        )
    if min(_q_values([1.0 if each.everywhere else each.least_p for each in found], clusters)) > FALSE_DISCOVERIES:
        return (
            "no shortcut can be told from an object: of each cluster with enough images hardly an image of its class "
            "is without it (--boxes can tell)"
        )
    return ""


def _why_not_confirmed(found: Evidence, q_value: float) -> str:
    """By the p-value and the q-value of pasting it, which decided."""
    p_value = found.p_values["brings"]
    if not found.brings.total:
        return "there is no image of another class to paste it on"
    if p_value <= FALSE_DISCOVERIES:
        return (
            f"pasted elsewhere it raises its class more than the control (p = {p_value:.2g}), but of so many clusters "
            f"some do by chance (q = {q_value:.2g})"
        )
    least = sign_test(np.ones(found.brings.total // HOSTS))
    if least > FALSE_DISCOVERIES:
        return (
            "too few images to show that pasted elsewhere it raises its class more than the control: of so many the "
            f"test reaches p = {least:.2g} at best"
        )
    return f"pasted elsewhere it was not shown to raise its class more than the control (p = {p_value:.2g})"


def _why_shortcut(found: Evidence) -> str:
    if found.kind == SURROUNDINGS:
        return "it brings the class, the class suffers without it, and images of other classes have it less often"
    if found.decided_by == "outside":
        return (
            f"it brings the class, the class suffers without it, and it lies outside of the object in {found.outside}"
        )
    beside = ", outside of the objects" if found.decided_by == "beside" else ""
    return (
        "it brings the class, the class suffers without it, and what its images have in common"
        f"{beside}, pixel by pixel at the same place, does more than half of that: {found.common}"
    )


def _why_evidence(found: Evidence) -> str:
    """By the test that is passed the least."""
    tests: list[str] = [test for test in _ALL_OF if test in found.p_values]
    least = max(tests, key=lambda test: found.p_values[test])
    if found.p_values[least] < found.p_value:
        least = "object"
    if found.p_value <= FALSE_DISCOVERIES:
        return f"each test is passed alone, but of so many clusters some are by chance (q = {found.q_value:.0%})"
    if least == "loses" and not found.loses_control.total:
        return "it brings the class; too few images have surroundings as large to say whether the class suffers without"
    if least == "loses":
        return "it brings the class; that the class suffers without it was not shown"
    if least == "frequent":
        return "it brings the class, and it was not shown that images of other classes have it less often"
    if found.decided_by != "common":
        return f"it brings the class, and it was not shown to lie outside of the object: outside in {found.outside}"
    if found.everywhere:
        return (
            "it brings the class, and hardly an image of the class is without it, so that no test decides (p = 1): "
            "object or shortcut, boxes can tell"
        )
    return "it brings the class, and differs from image to image as objects do: object or shortcut, boxes can tell"


def _mean_place(members: Sequence[Part]) -> tuple[float, float]:
    row, column = np.mean([part.centre for part in members], axis=0).tolist()
    return row, column


def as_fields(evidence: Evidence) -> dict[str, Any]:
    """Fit for JSON and `from_fields`."""
    return dataclasses.asdict(evidence)


def from_fields(fields: dict[str, Any]) -> Evidence:
    """The inverse of `as_fields`."""
    rates = {
        name: Rate(v["count"], v["total"], tuple(v["images"]))
        for name, v in fields.items()
        if isinstance(v, dict) and "total" in v
    }
    hosts = tuple((host, member, donor, int(said)) for host, member, donor, said in fields["hosts"])
    row, column = fields["place"]
    return Evidence(**{**fields, **rates, "hosts": hosts, "place": (row, column)})
