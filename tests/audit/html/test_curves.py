"""The curves of a generation, as they are drawn."""

from __future__ import annotations

import re

import numpy as np

from anechoic.audit.html.curves import curve_svg
from anechoic.audit.supplement import Curve


def test_gate_bands_cover_exactly_the_open_steps() -> None:
    p = np.linspace(0, 1, 11)
    gate = np.zeros(11, dtype=bool)
    gate[[0, 1, 5, 10]] = True
    drawn = curve_svg(Curve(p, p, p, gate=gate), 1.0)
    bands = [
        (float(x), float(w))
        for x, w in re.findall(r'class="gate" x="([\d.]+)".*?width="([\d.]+)"', drawn)
    ]
    assert bands == [(40.0, 52.5), (197.5, 35.0), (372.5, 17.5)]  # 350 units from 40 to 390


def test_a_curve_with_gaps_or_nothing_recorded_still_draws() -> None:
    p = np.linspace(0, 1, 3)
    drawn = curve_svg(Curve(p, np.array([-np.inf, 0, np.inf]), np.array([1, np.nan, 2]), p), 2.0)
    assert "nan" not in drawn
    assert "inf" not in drawn
    empty = np.zeros(0)
    assert curve_svg(Curve(empty, empty, empty), 0.0) == ""
