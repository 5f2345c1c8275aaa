"""What the dashboards are made of: panels in one style, rows, variables and the marks of model changes.

Grafana's own defaults are taken where they are good, so that a panel says only what is special about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, heatmap
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Where the pages of docs/runbooks are served; readers type their own place into the dashboard.
RUNBOOKS = "/public/runbooks"
GREEN, ORANGE, RED = "green", "orange", "red"
HEIGHT = 8

Some = TypeVar("Some", timeseries.Panel, stat.Panel, table.Panel, heatmaps.Panel)


class Query(NamedTuple):
    """A PromQL expression, and the name of its series: text with ``{{label}}`` for the values of labels."""

    expr: str
    legend: str = ""


class Text(NamedTuple):
    """``title``: a question or a plain noun. ``advice``: what to do when it looks bad. ``runbook``: the alert whose
    page says more."""

    title: str
    advice: str
    runbook: str | None = None


def lines(
    text: Text, unit: str, *queries: Query, span: int = 8, limits: Sequence[float] = (), stacked: bool = False
) -> timeseries.Panel:
    """Lines over time. ``limits``: where it becomes worth a look, and where it is bad; ``stacked``: parts of a sum."""
    panel = _panel(timeseries.Panel(), text, unit, queries, span)
    panel.fill_opacity(30 if stacked else 5).line_width(1).show_points(common.VisibilityMode.AUTO).axis_soft_min(0)
    panel.legend(common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True))
    panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if limits:
        panel.thresholds(rising(*limits))
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    return panel


def number(
    text: Text,
    unit: str,
    query: Query,
    *,
    span: int = 4,
    steps: dashboards.ThresholdsConfig | None = None,
    words: dict[str, tuple[str, str]] | None = None,
) -> stat.Panel:
    """The value now, large. ``steps``: its colours; ``words``: what to show for a value, and in which colour."""
    panel = _panel(stat.Panel(), text, unit, [], span).height(4)
    panel.with_target(_target(query, 0).instant())  # a week's increase at each point of a line would take long
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.graph_mode(common.BigValueGraphMode.NONE).color_mode(common.BigValueColorMode.VALUE)
    panel.color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    panel.thresholds(steps or dashboards.ThresholdsConfig().steps([Threshold(None, "text")]))
    if words:
        panel.color_mode(common.BigValueColorMode.BACKGROUND)
        said = {value: ValueMappingResult(text=word, color=color) for value, (word, color) in words.items()}
        panel.mappings([ValueMap(said)])
    return panel


def rows(
    text: Text, unit: str, query: Query, *, value: str, span: int = 8, limits: Sequence[float] = ()
) -> table.Panel:
    """A table of the newest values, one row for each series, largest first. ``value``: the heading of the values."""
    panel = _panel(table.Panel(), text, unit, [], span)
    panel.with_target(_target(query, 0).instant().format(PromQueryFormat.TABLE))
    hidden = {"Time": True, "__name__": True}
    options = {"excludeByName": hidden, "renameByName": {"Value": value}}
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    panel.sort_by([common_builders.TableSortByFieldState().display_name(value).desc(True)])
    if limits:
        panel.thresholds(rising(*limits))
        panel.override_by_name(value, [DynamicConfigValue("custom.cellOptions", {"type": "color-text"})])
    return panel


def heat(text: Text, unit: str, query: Query, span: int = 8) -> heatmaps.Panel:
    """A histogram over time; the query gives its buckets by ``le``."""
    panel = _panel(heatmaps.Panel(), text, unit, [], span)
    panel.with_target(_target(query, 0).format(PromQueryFormat.HEATMAP))
    colors = heatmaps.HeatmapColorOptions().mode(heatmap.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    panel.color(colors)
    return panel.calculate(False).y_axis(heatmaps.YAxisConfig().unit(unit))


def rising(*limits: float) -> dashboards.ThresholdsConfig:
    """Green, and from the first limit orange (if there are two), from the last one red."""
    colors = [ORANGE, RED][-len(limits) :]
    steps = [Threshold(None, GREEN), *(Threshold(limit, color) for limit, color in zip(limits, colors, strict=True))]
    return dashboards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def falling(*limits: float) -> dashboards.ThresholdsConfig:
    """Green from the last limit on, orange below it, red below the first."""
    colors = [ORANGE, GREEN][-len(limits) :]
    steps = [Threshold(None, RED), *(Threshold(limit, color) for limit, color in zip(limits, colors, strict=True))]
    return dashboards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def board(
    uid: str,
    title: str,
    description: str,
    content: Sequence[tuple[str, Sequence[Builder[Panel]]]],
    *,
    by_version: bool = False,
) -> Dashboard:
    """A dashboard of titled rows. ``by_version``: it can be narrowed to versions of the model."""
    made = dashboards.Dashboard(title).uid(uid).description(description).tags(["fraudml"])
    made.readonly().timezone("browser").time("now-6h", "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)
    made.with_variable(dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made.with_variable(_choice("job", "Job", "label_values(fraud_model_info, job)", every="fraudml-.*"))
    made.with_variable(_choice("instance", "Process", 'label_values(fraud_model_info{job=~"$job"}, instance)'))
    if by_version:
        made.with_variable(_choice("version", "Model version", "label_values(fraud_decisions_total, version)"))
    text = dashboards.TextBoxVariable("runbooks").label("Runbooks at").default_value(RUNBOOKS)
    made.with_variable(text.current(VariableOption(text=RUNBOOKS, value=RUNBOOKS)))
    others = dashboards.DashboardLink("fraudml").type(DashboardLinkType.DASHBOARDS).tags(["fraudml"])
    made.link(others.as_dropdown(True).include_vars(False).keep_time(True))
    for row, panels in content:
        made.with_row(dashboards.Row(row))
        for panel in panels:
            made.with_panel(panel)
    built = made.build()
    built.annotations.list_val = [_ModelChanges()]  # the builder takes no annotations but its own
    for place, shown in enumerate(built.panels or [], 1):
        shown.id_val = place  # links to a panel lead to its place
    return built


class _ModelChanges(AnnotationQuery):
    """A mark on every panel where another version became champion. The library's type has no place for its text."""

    def __init__(self) -> None:
        expr = "max by (version) (fraud_model_info) unless max by (version) (fraud_model_info offset 2m)"
        super().__init__("Model changes", SOURCE, icon_color="purple", expr=expr)

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": "Version {{version}} is champion", "step": "1m"}


def _choice(name: str, label: str, query: str, every: str = ".*") -> dashboards.QueryVariable:
    made = dashboards.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)
    made.multi(True).include_all(True).all_value(every)
    return made.current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def _panel(panel: Some, text: Text, unit: str, queries: Sequence[Query], span: int) -> Some:
    advice = text.advice if text.runbook is None else f"{text.advice} Runbook: {text.runbook}."
    panel.title(text.title).description(advice).unit(unit).datasource(SOURCE).height(HEIGHT).span(span)
    if text.runbook is not None:
        link = dashboards.DashboardLink(f"Runbook {text.runbook}").type(DashboardLinkType.LINK)
        panel.links([link.url("${runbooks}/" + text.runbook + ".md").target_blank(True)])
    for place, query in enumerate(queries):
        panel.with_target(_target(query, place))
    return panel


def _target(query: Query, place: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).range().ref_id("ABCDEFGH"[place]).datasource(SOURCE)
    return made.legend_format(query.legend or "__auto")
