"""Why a series is segmented or not, before any work is done."""

from plugin.archive import Archive, Series
from plugin.ct.series import Judgement, judge, read_headers
from plugin.ct.series_rules import SeriesRules, UnsuitableSeries


def explain_series(series: Series, *, archive: Archive, rules: SeriesRules) -> Judgement:
    """Judge one series by its headers. One that is not CT is not even read."""
    if series.modality != "CT":
        reason = f"Modality is {series.modality or 'missing'}, expected CT."
        return Judgement(chosen=False, reason=reason)
    try:
        headers = read_headers(archive.file(instance) for instance in series.instances)
    except UnsuitableSeries as why:
        return Judgement(chosen=False, reason=str(why))
    return judge(headers, rules)
