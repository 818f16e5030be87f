"""The method table against Table 4's rows."""

from srat_fast.methods import METHODS


def test_the_twelve_methods() -> None:
    rows = {name: (m.base, m.weighting, m.separation, m.adversarial) for name, m in METHODS.items()}
    assert rows == {
        "natural": ("ce", "none", False, False),
        "ce": ("ce", "none", False, True),
        "focal": ("focal", "none", False, True),
        "ldam": ("ldam", "none", False, True),
        "cb-reweight": ("ce", "balanced", False, True),
        "cb-focal": ("focal", "balanced", False, True),
        "drcb-ce": ("ce", "deferred", False, True),
        "drcb-focal": ("focal", "deferred", False, True),
        "drcb-ldam": ("ldam", "deferred", False, True),
        "srat-ce": ("ce", "deferred", True, True),
        "srat-focal": ("focal", "deferred", True, True),
        "srat-ldam": ("ldam", "deferred", True, True),
    }
