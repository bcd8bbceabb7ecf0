"""TorchScript models behind the Policy interface. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfx.nn.policy import Policy
from rfx.observation import arrays


class TorchJitPolicy(Policy):
    """A model saved with `torch.jit.save`, called with dictionaries of torch tensors as observations.

    The model's input is the entries obs_keys, joined along their last axis. A TorchScript file holds code: open only a
    file that you trust. The model stays in its .pt file; a policy folder cannot hold it. Raises ImportError without
    torch, FileNotFoundError, or ValueError for a file that is not TorchScript.
    """

    def __init__(
        self, model_path: str | Path | None = None, obs_keys: Sequence[str] | None = None, device: str = "cpu"
    ):
        torch = arrays.import_torch()
        self.obs_keys = ["state"] if obs_keys is None else list(obs_keys)
        if not self.obs_keys:
            raise ValueError("got no obs_keys; expected at least one entry of the observation, such as 'state'")
        self.device = torch.device(device)
        self.model = None
        if model_path is not None:
            if not Path(model_path).is_file():
                raise FileNotFoundError(
                    f"got model_path {model_path}, where there is no file; expected one saved with torch.jit.save"
                )
            try:
                self.model = torch.jit.load(str(model_path), map_location=self.device).eval()
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{model_path} is not a TorchScript file: {error}") from error

    def forward(self, obs: Mapping[str, Any]) -> Any:
        """Compute actions for a dictionary of torch tensors. Each (B, width) -> the model's output, (B, act_dim).

        Raises KeyError for a missing entry, TypeError unless obs is a dictionary of torch tensors, RuntimeError without
        a model.
        """
        torch = arrays.import_torch()
        if self.model is None:
            raise RuntimeError("this TorchJitPolicy has no model; construct it with model_path")
        if not isinstance(obs, Mapping):
            raise TypeError(
                f"got {type(obs).__name__}; expected a dictionary of torch tensors with {', '.join(self.obs_keys)}"
            )
        for key in self.obs_keys:
            if key not in obs:
                raise KeyError(f"the observation has {', '.join(map(repr, obs)) or 'nothing'}; expected {key!r}")
            if not isinstance(obs[key], torch.Tensor):
                raise TypeError(f"got {type(obs[key]).__name__} for {key!r}; expected a torch tensor")
        return self.model(torch.cat([obs[key].to(self.device) for key in self.obs_keys], dim=-1))

    def __call__(self, obs: Mapping[str, Any]) -> Any:
        """Run `forward` without gradient."""
        with arrays.import_torch().inference_mode():
            return self.forward(obs).clone()

    def parameters(self) -> list[Any]:
        """Return the model's weights, torch tensors."""
        return [] if self.model is None else list(self.model.parameters())

    def save(self, path: str | Path, **bundle: Any) -> Path:
        """Raise TypeError: a policy folder holds no code, and TorchScript is code."""
        raise TypeError(
            "got a TorchJitPolicy to save; a policy folder holds weights and no code: keep the .pt file instead"
        )

    @classmethod
    def load(cls, path: str | Path) -> TorchJitPolicy:
        """Load the TorchScript model in the .pt file at path. Raises like the constructor."""
        return cls(path)
