"""The SRAT loss in a training loop of one's own: four classes of points in the plane, the last of which is rare."""

import torch
from torch.nn import functional

from srat_kernels import last_backend, srat_loss


def main(steps: int = 100) -> float:
    """Train a small network; return its accuracy, each class counting equally."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts = torch.tensor([200, 100, 50, 10])
    centres = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    labels = torch.repeat_interleave(torch.arange(4), counts).to(device)
    points = centres.to(device)[labels] + 0.7 * torch.randn(len(labels), 2, device=device)
    body = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).to(device)
    head = torch.nn.Linear(64, 4).to(device)
    margins = 0.5 * (counts / counts.min()).float().pow(-0.25).to(device)  # LDAM: 0.5 for the rarest
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
    for _ in range(steps):
        features = body(points)  # L_sep wants them at unit length, the classifier as they are
        unit, logits = functional.normalize(features), head(features)
        loss = srat_loss(unit, logits, labels, margins=margins, scale=10.0, separation_weight=0.5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    right = head(body(points)).argmax(dim=1) == labels
    accuracy = sum(right[labels == c].float().mean().item() for c in range(4)) / 4
    print(f"{last_backend('srat_loss')}: L_sep {loss.separation:.2f}, balanced accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
