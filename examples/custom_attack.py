# %% [markdown]
# # An attack of your own, in thirty lines
#
# An attack maps an observation to images. It never holds the truth: there is no parameter for it. Subclass `Attack`,
# and the callback, `compare`, records and pictures know it.

# %%
import torch
import torch.nn.functional as F

from leakage_audit import observe, score
from leakage_audit.attacks import Attack
from leakage_audit.data import Synthetic
from leakage_audit.models import build

# %% tags=["parameters"]
iterations = 300
image_size = 32


# %%
from leakage_audit.attacks import Found
from leakage_audit.matching.objective import Candidates, relative_distance


class SignDescent(Attack):
    """Descent by the sign of the derivative, from grey; the step shrinks to nothing."""

    name = "sign_descent"

    def __init__(self, iterations=300, step=0.02):
        self.iterations, self.step = iterations, step  # each argument is an attribute: the record holds them

    def reconstruct(self, seen, budget):
        candidates = Candidates(seen)  # the gradients that an input would have shared
        labels = seen.labels if seen.labels is not None else torch.zeros(seen.batch_size, dtype=torch.long)
        x = torch.zeros(seen.batch_size, *seen.input_shape, requires_grad=True)
        for done in budget.steps(self.iterations, "sign descent"):  # ends early when the time is up
            distance = relative_distance(candidates.gradients(x, labels), candidates.targets)
            (slope,) = torch.autograd.grad(distance, x)
            with torch.no_grad():
                x -= self.step * (1 - done / self.iterations) * slope.sign()
        ended = "the time was up" if budget.exhausted else f"all {self.iterations} iterations done"
        return Found(x.detach(), converged=not budget.exhausted, ended=ended, residual=float(distance.detach()))


# %%
image, label, _ = Synthetic(image_size=image_size).image_at(3)
torch.manual_seed(10)
model = build("cnn2_v2", image_size=image_size)
seen = observe(model, image, label, loss=F.cross_entropy, mean=0.5, grant_labels=True)
found = SignDescent(iterations)(seen)
print(f"{score(found.images, image).psnr[0]:.1f} dB: {found.ended}")

# %% [markdown]
# In a fit it is an attack like any other, its name beside the others in TensorBoard:

# %%
from leakage_audit.callbacks import LeakageAudit

audit = LeakageAudit(every_n_steps=100, attacks=["joint", SignDescent(iterations)], grant_labels=True)
print(audit.settings.attacks)
