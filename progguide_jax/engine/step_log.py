"""The steps of a training as the host sees them: sent off, checked, summed up."""

import time

import jax
import numpy as np


class Window:
    """Metrics since the last log line. They stay on the devices until the window is
    closed; the host is at most one step ahead of the step that it has just sent off.

    patience: how many steps in a row may be skipped because they are not finite.
    """

    def __init__(self, step: int, patience: int = 0):
        self.sent, self.patience = [], patience
        self.skipped, self.in_a_row, self.checked = 0, 0, step
        self.start, self.start_step = None, step

    def add(self, step: int, metrics: dict) -> None:
        self.sent.append((step, metrics))
        if self.start is None:  # the first step is compilation: not timed
            self.check()
            self.start, self.start_step = time.perf_counter(), step
        elif len(self.sent) > 1:
            jax.block_until_ready(self.sent[-2])

    def check(self) -> None:
        """Wait for every step sent; FloatingPointError if one is not finite, or, with
        patience, if more in a row are not, which have changed nothing."""
        self.sent = jax.device_get(self.sent)
        for step, metrics in self.sent:
            if step <= self.checked:  # of an earlier call
                continue
            self.checked = step
            wrong = [name for name, x in metrics.items() if not np.isfinite(x)]
            self.in_a_row = self.in_a_row + 1 if wrong else 0
            self.skipped += bool(wrong)
            if self.in_a_row > self.patience:
                self._stop(wrong[0], metrics[wrong[0]], step)

    def _stop(self, name: str, value: float, step: int) -> None:
        row = f", the last of {self.in_a_row} in a row" if self.patience else ""
        raise FloatingPointError(
            f"{name} is {value} at step {step}{row}: lower train.learning_rate or "
            "train.grad_clip and run again with --config.allow_config_change; it "
            "resumes from the last checkpoint (if it fails again at once, remove that "
            "one from WORKDIR/checkpoints); --config.train.skip_nonfinite=10 leaves "
            "out single steps"
        )

    def close(self, batch_size: int) -> dict[str, float]:
        """Means of the window, and images per second; starts the next one."""
        self.check()
        step, now = self.sent[-1][0], time.perf_counter()
        names = self.sent[-1][1]
        row = {n: _mean([float(m[n]) for _, m in self.sent]) for n in names}
        row["averaged_steps"] = len(self.sent)  # fewer after a resume
        if step > self.start_step:
            elapsed = now - self.start
            row["images_per_second"] = (step - self.start_step) * batch_size / elapsed
        if self.patience:
            row["skipped_steps"] = self.skipped  # since the command began
        self.sent, self.start, self.start_step = [], now, step
        return row


def _mean(values: list[float]) -> float:
    """Of those that are finite; NaN if none is."""
    finite = [x for x in values if np.isfinite(x)]
    return float(np.mean(finite)) if finite else float("nan")
