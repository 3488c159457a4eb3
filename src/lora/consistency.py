"""Refuses settings that contradict each other or would have no effect: none is ignored silently."""

from pathlib import Path
from typing import TYPE_CHECKING

from lora.errors import ConfigError

if TYPE_CHECKING:
    from lora.config import AdapterConfig, AugmentConfig, RunConfig
    from lora.scoring.rules import GateConfig


def flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def require_consistent_gate(config: "RunConfig", origin: str) -> None:
    """Raises `ConfigError` for a limit that is missing, unused, or undone by another one."""
    gate = config.gate
    for name in ("max_false_alarms", "min_term_recall"):
        if getattr(gate, name) is not None and config.eval.terms is None:
            raise ConfigError(f"{origin}: {flag(name)} is about terms; give --terms too, or leave it out")
    _require_guardrail(gate, origin)


def _require_guardrail(gate: "GateConfig", origin: str) -> None:
    if gate.guardrail == "drift" and gate.max_drift_points is None:
        raise ConfigError(f"{origin}: --guardrail drift needs a limit; give --max-drift-points")
    if gate.guardrail == "wer" and gate.max_drift_points is not None:
        raise ConfigError(f"{origin}: --max-drift-points is for --guardrail drift; set that too, or leave it out")
    margin_used = gate.rule == "interval" and gate.guardrail == "wer"
    if not margin_used and gate.heldout_margin_points != type(gate)().heldout_margin_points:
        raise ConfigError(f"{origin}: --heldout-margin-points is for --rule interval and --guardrail wer; leave it out")
    if margin_used and gate.heldout_margin_points < gate.max_heldout_rise_points:
        raise ConfigError(
            f"{origin}: --heldout-margin-points {gate.heldout_margin_points:g} is below --max-heldout-rise-points "
            f"{gate.max_heldout_rise_points:g}; the upper end of an interval is never below its middle, so raise it"
        )


def require_consistent_teaching(config: "RunConfig", origin: str) -> None:
    """Raises `ConfigError` if terms are to be taught and none are named."""
    if config.train.teach == "terms" and config.eval.terms is None:
        raise ConfigError(f"{origin}: --teach terms needs the list of terms; give --terms too, or --teach transcripts")


def require_consistent_adapter(adapter: "AdapterConfig", origin: str) -> None:
    """Raises `ConfigError` for a setting of LoRA in a run without LoRA."""
    usual = type(adapter)(method=adapter.method, lora_targets=adapter.lora_targets)
    for name in adapter.__struct_fields__:
        if adapter.method == "full" and getattr(adapter, name) != getattr(usual, name):
            raise ConfigError(f"{origin}: {flag(name)} is for --method lora; leave it out with --method full")


def require_consistent_start(config: "RunConfig", origin: str) -> None:
    """Raises `ConfigError` for settings that the adapter to continue has decided already, and for a training without updates."""
    adapter, train = config.adapter, config.train
    if adapter.from_adapter is None:
        if train.max_steps == 0:
            raise ConfigError(f"{origin}: --max-steps 0 judges an adapter as it is; give --from-adapter too, or train at least one update")
        return
    usual = type(adapter)(from_adapter=adapter.from_adapter, lora_targets=adapter.lora_targets)
    for name in adapter.__struct_fields__:
        if getattr(adapter, name) != getattr(usual, name):
            raise ConfigError(f"{origin}: {flag(name)} is decided by --from-adapter, whose layers, ranks and scale are kept; leave it out")
    if Path(adapter.from_adapter).resolve().is_relative_to(Path(config.output.output_dir).resolve()):
        raise ConfigError(
            f"{origin}: --from-adapter {adapter.from_adapter} is inside --output-dir, which the run replaces; take another one"
        )
    if train.strength_sweep:
        raise ConfigError(f"{origin}: --strength-sweep scales an update of the base model down; leave it out with --from-adapter")


def require_consistent_augmentation(augment: "AugmentConfig", rms_dbfs: float | None, origin: str) -> None:
    """Raises `ConfigError` for reversed ranges and for settings that would have no effect."""
    default = type(augment)()
    given = [name for name in augment.__struct_fields__ if getattr(augment, name) != getattr(default, name)]
    if augment.augment_copies == 0:
        if given:
            raise ConfigError(f"{origin}: {flag(given[0])} varies copies, and there are none; give --augment-copies too, or leave it out")
        return
    for low, high in (("speed_min", "speed_max"), ("pitch_min", "pitch_max"), ("snr_min_db", "snr_max_db")):
        if getattr(augment, low) > getattr(augment, high):
            bounds = f"{flag(low)} {getattr(augment, low):g} is above {flag(high)} {getattr(augment, high):g}"
            raise ConfigError(f"{origin}: {bounds}; swap them")
    used = {
        "noise_dir": augment.noise_dir is not None and augment.noise_probability > 0,
        "impulse_dir": augment.impulse_dir is not None and augment.impulse_probability > 0,
        "telephone_probability": augment.telephone_probability > 0,
        "concat_probability": augment.concat_probability > 0,
    }
    needs = {
        "noise_dir": ("noise_dir", "noise_probability", "snr_min_db", "snr_max_db"),
        "impulse_dir": ("impulse_dir", "impulse_probability"),
        "telephone_probability": ("telephone_codecs",),
        "concat_probability": ("concat_clips",),
    }
    for source, dependent in needs.items():
        idle = [name for name in dependent if name in given and not used[source]]
        if idle:
            wanted = f"{flag(source)}" if source.endswith("dir") and getattr(augment, source) is None else "a probability above 0"
            raise ConfigError(f"{origin}: {flag(idle[0])} changes nothing without {wanted}; give it, or leave {flag(idle[0])} out")
    if augment.gain_db > 0 and rms_dbfs is not None:
        raise ConfigError(f"{origin}: --gain-db is undone by --rms-dbfs, which brings every clip to one level; leave one of them out")
    if not (any(used.values()) or augment.changes_speed() or augment.changes_pitch() or augment.gain_db > 0):
        raise ConfigError(
            f"{origin}: --augment-copies {augment.augment_copies} without an effect only repeats the speech; give --speed-min, "
            "--pitch-min, --gain-db, --noise-dir, --impulse-dir, --telephone-probability or --concat-probability"
        )
    augment.codecs()
