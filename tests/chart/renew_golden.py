"""`make golden`: write what every scenario renders now."""

from k8s.render import dump
from tests.chart.scenarios import FILES, rendered
from tests.chart.test_render import GOLDEN

GOLDEN.mkdir(exist_ok=True)
for old in GOLDEN.glob("*.yaml"):
    old.unlink()
for name in FILES:
    (GOLDEN / f"{name}.yaml").write_text(dump(rendered(name)), encoding="utf-8")
