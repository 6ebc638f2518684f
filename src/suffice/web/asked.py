"""What a request may say, and an answer: types, ranges and defaults, as OpenAPI and the command line have them.

>>> AnyRequest({"do": "explain", "method": "causal", "keep_confidence": 0.5}).root.occlusion
'robust'
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from suffice.guarantees.certifying import DRAWS, OVER, RHO
from suffice.guarantees.interval import CONFIDENCE
from suffice.occlusion import DEFAULT_FOR_MEASURES, DEFAULT_FOR_VERDICTS

Share = Annotated[float, Field(ge=0, le=1)]
Open = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[list[Name], BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given)]
Class = int | Name
Setting = bool | int | float | Name


class _Asked(BaseModel):
    """What every job may say.

    Attributes:
        model: one of the server's; its first.
        image: id of an image that was uploaded before, instead of the part `image` of the request.
        target: class by number or name; the model's own choice.
        seed: of every random draw.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Name | None = None
    image: Name | None = None
    target: Class | None = None
    seed: Seed = 0


class Explain(_Asked):
    """Find the smallest part that suffices, as `suffice.explain`; settings of the method may stand beside the rest.

    Attributes:
        method, occlusion, keep_confidence, kind, threshold, minimal, certify, rho, over: as of `suffice explain`.
        count: look for so many parts that have no pixel in common.
        against: a class: what must be shown so that the target beats this one, and what must go so that it does not.
        curve: along the ranking, ask what the model says at so many places.
        settings: of the method.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    do: Literal["explain"]
    method: Name = "causal"
    occlusion: Name = DEFAULT_FOR_VERDICTS
    keep_confidence: Share = 0.5
    kind: Literal["sufficient", "contrastive", "complete"] = "sufficient"
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    minimal: Literal["blocks", "windows", "pairs", "subsets"] | None = None
    certify: Open | None = None
    rho: Open = RHO
    over: Name = OVER
    count: Annotated[int, Field(ge=1, le=10)] = 1
    against: Class | None = None
    curve: Annotated[int, Field(ge=0, le=64)] = 0
    settings: dict[str, Setting] = {}


class _OfAPart(_Asked):
    """What asks about a part: that of an explanation, a mask, or what `method` finds where neither is given.

    Attributes:
        explanation: id of the job that found it.
        mask: rows of 0 and 1, as the model sees them, or the bits of these in base64, eight to a byte.
        method: that finds it.
    """

    explanation: Name | None = None
    mask: list[list[float]] | str | None = None
    method: Name = "causal"


class Score(_OfAPart):
    """Score explanations or maps side by side, as `suffice.score`; options of metrics may stand beside the rest.

    Attributes:
        explanations: ids of jobs that found them, instead of `explanation`.
        saliency: rows of a map, larger = more important, instead of `mask`.
        metrics: names; all that need no files.
        label: another name of `target`.
        occlusion, threshold: as of `suffice score`.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    do: Literal["score"]
    explanations: Annotated[list[Name], Field(max_length=20)] = []
    saliency: list[list[float]] | None = None
    metrics: Names | None = None
    label: Class | None = None
    occlusion: Name = DEFAULT_FOR_MEASURES
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Verify(_OfAPart):
    """How far it carries that a part suffices, as `suffice verify`.

    Attributes:
        over, rho, confidence, draws: of a test by draws.
        epsilon: by how much each pixel outside may change: prove it instead.
    """

    do: Literal["verify"]
    over: Name = OVER
    rho: Open = RHO
    confidence: Open = CONFIDENCE
    draws: Annotated[int, Field(ge=1, le=10_000)] = DRAWS
    epsilon: Annotated[float, Field(gt=0, le=1)] | None = None


class Circuit(_OfAPart):
    """The part of the network that suffices, as `suffice.trace_circuit`; of the whole image unless a part is given.

    Attributes:
        layers, switch, nodes, edges, ranking, allocation, ablation, share, keep_confidence, minimal_groups, occlusion,
            random: as of `suffice circuit`.
    """

    do: Literal["circuit"]
    layers: Name | Annotated[list[Name], Field(max_length=100)] = "stages"
    switch: Name | Annotated[list[Name], Field(max_length=100)] | None = None
    nodes: Annotated[int, Field(ge=1, le=1000)] | None = None
    edges: Name = "folded"
    ranking: Name = "integrated-size"
    allocation: Name | None = None
    ablation: Name | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    keep_confidence: Share = 0.5
    minimal_groups: Annotated[int, Field(ge=1, le=100)] | None = None
    occlusion: Name = DEFAULT_FOR_MEASURES
    random: Annotated[int, Field(ge=0, le=100)] = 10


AnyJob = Explain | Score | Verify | Circuit


class AnyRequest(RootModel[Annotated[AnyJob, Field(discriminator="do")]]):
    """What `request` says: `do` is explain, score, verify or circuit, the rest their arguments."""


class Part(BaseModel):
    """A quick question: what does the model say of parts of an image?

    Attributes:
        masks: each the bits of a mask in base64, eight to a byte, row by row.
        occlusions: names; each part is asked about under each of them. A set such as `robust` stands for its members.
        target: class by number or name; the model's own choice.
        model: one of the server's; its first.
    """

    model_config = ConfigDict(extra="forbid")

    masks: Annotated[list[Annotated[str, Field(max_length=2**24)]], Field(min_length=1, max_length=32)]
    occlusions: Annotated[list[Name], Field(min_length=1, max_length=32)]
    target: Class | None = None
    model: Name | None = None


class Health(BaseModel):
    """That the server is there.

    Attributes:
        status: `ok`.
        version: of suffice.
        started: another one after each start, so that a page knows when its jobs are gone.
        models: names.
    """

    status: str
    version: str
    started: str
    models: list[str]


class Uploaded(BaseModel):
    """An image that is kept for a while.

    Attributes:
        id: for other requests.
        sha256: of its file; size: (width, height) of the upright photo; notes: what was assumed.
        box: left, top, right and bottom of what the model sees, as shares of the photo.
        classes: the model's first choices: number, name, confidence.
    """

    id: str
    name: str
    sha256: str
    size: tuple[int, int]
    notes: list[str]
    box: tuple[float, float, float, float]
    classes: list[tuple[int, str, float]]


class Cluster(BaseModel):
    """Evidence that recurs, as `suffice audit` found it.

    Attributes:
        name, where, verdict, why: as on the audit's page.
        target, target_name: the class that it speaks for.
    """

    name: str
    target: int
    target_name: str
    where: str
    verdict: str
    why: str


class Clusters(BaseModel):
    """The evidence of an audit.

    Attributes:
        model: that it is of, as the server names it.
        clusters: of parts; left_out: how many of surroundings there are, which would cover the image's own object.
    """

    model: str
    clusters: list[Cluster]
    left_out: int


class Paste(BaseModel):
    """One member of a cluster on the visitor's image.

    Attributes:
        top_name: what the model says of it; came: whether that is the cluster's class, and was not before.
        hidden_came: the same where the member's place is hidden by the image's mean colour instead.
        confidence: in the cluster's class.
        picture: as PNG in a `data:` address.
    """

    top_name: str
    came: bool
    hidden_came: bool
    confidence: float
    picture: str


class Pasted(BaseModel):
    """The members of a cluster on the visitor's image.

    Attributes:
        before: what the model says of the image; already: whether that is the cluster's class, which then cannot come.
        confidence: in the cluster's class.
        pastes: one a member.
        brings: whether the class comes in more pastes than with their places hidden, by the sign test at 5%.
    """

    before: str
    already: bool
    confidence: float
    pastes: list[Paste]
    brings: bool


class Created(BaseModel):
    """The id of a job."""

    id: str


class Said(BaseModel):
    """What the model says of one part under one occlusion.

    Attributes:
        occlusion: its name.
        confidence: probability of the target, in [0, 1].
        on_top: whether the target is the model's decision.
        top, top_name, top_confidence: its decision.
        other, other_name, other_confidence: the class that comes next after the target, or that beats it.
    """

    occlusion: str
    confidence: float
    on_top: bool
    top: int
    top_name: str
    top_confidence: float
    other: int | None
    other_name: str
    other_confidence: float


class Answers(BaseModel):
    """For each mask what is said of it under each occlusion, and what it took.

    Attributes:
        target, target_name, confidence: the class that was asked about, and its confidence for the whole image.
        answers: by mask, then by occlusion.
        area: share of the pixels in each mask, in [0, 1].
        forward_passes: images that went through the model; what was known is not asked again.
        seconds: wall time.
    """

    target: int
    target_name: str
    confidence: float
    answers: list[list[Said]]
    area: list[float]
    forward_passes: int
    seconds: float


class State(BaseModel):
    """A job.

    Attributes:
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        ahead: jobs before it, where it is queued.
        stage: what it does at the moment, in words.
        share: of the work that is done, in [0, 1].
        forward_passes: images that went through the model so far.
        seconds: since it began; seconds_left: as far as can be told.
        area: share of the pixels in the smallest part so far that suffices.
        error: of a failed job, in one line.
        result: of a done job; of one that is running, where its explanation is there already.
        files: addresses of what it made, by name.
    """

    id: str
    do: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    ahead: int = 0
    stage: str = ""
    share: float = 0.0
    forward_passes: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    area: float | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    files: dict[str, str] = {}
