"""`hf:FOLDER_OR_ID`: an image classifier of transformers, or CLIP and SigLIP with prompts for classes (extra `hf`).

What is loaded: the architecture that `config.json` names, out of transformers itself; weights from safetensors files;
the image processor beside them. What is not: pickles, code from the folder, and anything from the network unless
`weights="download"` says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from suffice.class_names import usable
from suffice.errors import InputError, reason
from suffice.inside import ReversedChannels
from suffice.models.hf_processor import ReadProcessor, read_processor
from suffice.models.source import Source
from suffice.models.weights import load_weights
from suffice.models.zero_shot import ZeroShot
from suffice.outputs import Outputs


def load(
    name: str, weights: str | None = None, num_classes: int | None = None, prompts: Sequence[str] | None = None
) -> Source:
    """A classifier of transformers with its processor and class names.

    Args:
        name: a folder that `save_pretrained` wrote, or an id of the Hugging Face hub, which is then looked for in its
            cache.
        weights: None for those of the folder; `download` to fetch what is not there; `random`; or a file.
        num_classes: of a model whose weights are `random` or in a file; None for what the configuration says.
        prompts: a text for each class, for a model that compares images and texts; their order is that of the logits.

    Raises:
        InputError: no transformers; nothing to load; pickled weights; weights that do not fill the whole model; a model
            that needs code of its own; prompts for a classifier, or none for a model that needs them.
    """
    transformers = _library()
    where = {"local_files_only": weights != "download", "trust_remote_code": False}
    with _quietly(transformers):
        with _one_line(name, weights):
            config = transformers.AutoConfig.from_pretrained(name, **where)
        if prompts is not None:
            return _zero_shot(transformers, name, weights, config, list(prompts), where)
        if _needs_prompts(transformers, config):
            raise InputError(
                f"hf:{name} compares images with texts; expected a prompt for each class (--prompts, prompts=[…])"
            )
        if num_classes is not None and weights not in (None, "download"):
            config.num_labels = num_classes
        module, sha256 = _with_weights(transformers.AutoModelForImageClassification, name, weights, config, where)
        source = with_processor(module, f"hf:{name}", _processor(transformers, name, where))
        return dataclasses.replace(source, weights_sha256=sha256)


def with_processor(module: Any, name: str, processor: Any) -> Source:
    """A classifier of transformers with what its processor, or else its configuration, says.

    Args:
        module: the model.
        name: what reports call it.
        processor: an image processor; None for none.

    Raises:
        InputError: as `read_processor`.
    """
    config = module.config
    source = Source(
        module.eval(), name, _size(config), usable(getattr(config, "id2label", None)), outputs=_outputs(config)
    )
    if processor is None:
        return source
    read = read_processor(processor, getattr(getattr(config, "vision_config", config), "num_channels", 3))
    return dataclasses.replace(
        source,
        module=ReversedChannels(module) if read.reverses else module,
        preprocessing=read.fields,
        assumed=said_of(processor, read),
    )


def said_of(processor: Any, read: ReadProcessor) -> dict[str, str]:
    """What is to be said of a processor that is not done here in the same way; nothing of another."""
    if not read.difference:
        return {}
    sentence = (
        f"{type(processor).__name__} does what is not done here in the same way: of test pictures, pixels differ from "
        f"its own by up to {read.difference:.3g} of 255"
    )
    return {"processor": sentence}


def _size(config: Any) -> dict[str, Any]:
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    return {} if None in sides else {"input_size": sides}


def _outputs(config: Any) -> Outputs | None:
    """What the logits mean, as the pipeline of transformers has it."""
    kind = getattr(config, "problem_type", None)
    if kind == "regression":
        raise InputError(f"expected a classifier; the model ({config.model_type}) was trained for regression")
    if kind == "multi_label_classification":
        return "labels"
    return "binary" if getattr(config, "num_labels", 2) == 1 else "logits"


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError('a Hugging Face model needs transformers: pip install "suffice[hf]"') from error
    return transformers


@contextlib.contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without progress bars and reports, as what matters of them becomes an error; afterwards as before."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _one_line(name: str, weights: str | None) -> Iterator[None]:
    """One line of the many kinds of errors by which transformers says that something is not there."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"hf:{name} needs code of its own, which is not run; build it in a function of yours and name that "
                "(package.module:function)"
            ) from error
        if "safetensors" in str(error):
            raise InputError(
                f"expected weights of hf:{name} as safetensors; other files, which can hold code, are not read: "
                f"{reason(error)}"
            ) from error
        hint = "" if weights == "download" or Path(name).is_dir() else "; weights=download fetches it from the hub"
        raise InputError(f"could not load hf:{name} from this machine: {reason(error)}{hint}") from error


def _needs_prompts(transformers: Any, config: Any) -> bool:
    classifies = any("ForImageClassification" in str(name) for name in getattr(config, "architectures", None) or ())
    return not classifies and type(config) in transformers.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING


def _with_weights(
    auto: Any, name: str, weights: str | None, config: Any, where: dict[str, Any]
) -> tuple[Any, str | None]:
    """The model of a configuration with its weights, all of them, and the SHA-256 of a file that was given for them."""
    if weights not in (None, "download"):
        with _one_line(name, weights):
            module = auto.from_config(config)
        if weights == "random":
            return module, None
        return module, load_weights(module, str(weights), f"hf:{name}").sha256
    with _one_line(name, weights):
        module, found = auto.from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True, **where
        )
    missing = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if missing:
        raise InputError(
            f"expected all weights of {type(module).__name__} in hf:{name}; {len(missing)} are missing or of another "
            f"shape (first: {missing[0]}): it was saved without this head"
        )
    return module, None


def _processor(transformers: Any, name: str, where: dict[str, Any]) -> Any:
    """The image processor beside the model; None where there is none."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, **where)
    except OSError:
        return None
    except Exception as error:
        raise InputError(f"the image processor of hf:{name} cannot be read: {reason(error)}") from error


def _zero_shot(
    transformers: Any, name: str, weights: str | None, config: Any, prompts: list[str], where: dict[str, Any]
) -> Source:
    """CLIP, SigLIP and their like, with the texts' part done once for all."""
    if len(prompts) < 2 or not all(prompts) or len(set(prompts)) < len(prompts):
        raise InputError(f"expected at least two different prompts, a text for each class; got {prompts}")
    if type(config) not in transformers.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(f"prompts are for a model that compares images with texts; hf:{name} is {config.model_type}")
    auto = transformers.AutoModelForZeroShotImageClassification
    module, sha256 = _with_weights(auto, name, weights, config, where)
    with _one_line(name, weights):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
    zero_shot = ZeroShot(module.eval(), tokenizer, prompts)
    source = with_processor(zero_shot, f"hf:{name}", _processor(transformers, name, where))
    return dataclasses.replace(source, class_names=tuple(prompts), outputs=zero_shot.outputs, weights_sha256=sha256)
