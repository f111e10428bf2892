//! The metrics page: the tables of telemetry, the memory account and the process, as Prometheus text.
//!
//! Everything is read at the scrape and nothing is kept between two scrapes. Names begin with `aspis_`, but for the
//! process figures, whose names every exporter shares.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aspis_telemetry::counters::COUNTERS;
use aspis_telemetry::histogram::TIMINGS;
use aspis_telemetry::{CoreCounters, CoreHistograms, Kind, Snapshot, TimingSnapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::process::ProcessFigures;

/// A level that some other part keeps, such as the memory account.
pub(crate) struct Level {
    /// The family without prefix.
    pub(crate) name: &'static str,
    /// One sentence for operators.
    pub(crate) help: &'static str,
    /// One label, if the family has one.
    pub(crate) label: Option<(&'static str, Cow<'static, str>)>,
    /// The value at the moment of the question.
    pub(crate) value: u64,
}

/// Reads levels at a scrape. Rows of one family stand together.
pub(crate) type Levels = dyn Fn() -> Vec<Level> + Send + Sync;

/// Everything that the page is made of.
pub(crate) struct Sources {
    /// The counters of every core, and of the threads beside them.
    pub(crate) counters: Vec<Arc<CoreCounters>>,
    /// The histograms of every core.
    pub(crate) histograms: Vec<Arc<CoreHistograms>>,
    /// Levels that others keep.
    pub(crate) levels: Box<Levels>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Sources of {} counter sets", self.counters.len())
    }
}

/// The page's maker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Makes a page of these sources.
    pub(crate) fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sources));
        Metrics { registry }
    }

    /// Writes the page as it is now.
    pub(crate) fn render(&self, format: Format) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("a String accepts every write");
        match format {
            Format::OpenMetrics => page,
            Format::Classic => classic(&page),
        }
    }
}

/// The two texts that scrapers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `text/plain; version=0.0.4`, what everybody reads.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// Chooses by the scraper's `Accept` field.
    pub(crate) fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(text) if text.contains("application/openmetrics-text") => Format::OpenMetrics,
            _ => Format::Classic,
        }
    }

    /// The `Content-Type` of the page.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Turns OpenMetrics text into the classic one, which names counters with their suffix and knows no unit or end.
fn classic(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut help = "";
    for line in page.lines() {
        if line.starts_with("# HELP ") {
            help = line;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let words =
                help.strip_prefix("# HELP ").and_then(|text| text.strip_prefix(name)).unwrap_or_default();
            out.push_str(&format!("# HELP {name}{suffix}{words}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_build(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        self.encode_timings(&mut encoder)?;
        self.encode_levels(&mut encoder)?;
        encode_process(&ProcessFigures::read(), &mut encoder)
    }
}

impl Sources {
    fn encode_build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let build = ConstGauge::new(1_u64);
        let mut family =
            encoder.encode_descriptor("aspis_build_info", "The running version.", None, MetricType::Gauge)?;
        build.encode(family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = Snapshot::of(self.counters.iter().map(Arc::as_ref));
        for family in COUNTERS.chunk_by(|left, right| left.name == right.name) {
            let name = format!("aspis_{}", family[0].name);
            let metric_type = match family[0].kind {
                Kind::Monotonic => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let rows = encoder.encode_descriptor(&name, family[0].help, None, metric_type)?;
            encode_rows(
                rows,
                family,
                |row| row.labels.to_vec(),
                |row, encoder| match row.kind {
                    Kind::Monotonic => ConstCounter::new(snapshot.value(row.counter)).encode(encoder),
                    Kind::Gauge => ConstGauge::new(snapshot.value(row.counter)).encode(encoder),
                },
            )?;
        }
        Ok(())
    }

    fn encode_timings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for family in TIMINGS.chunk_by(|left, right| left.name == right.name) {
            let name = format!("aspis_{}", family[0].name);
            let rows = encoder.encode_descriptor(
                &name,
                family[0].help,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?;
            encode_rows(
                rows,
                family,
                |row| row.labels.to_vec(),
                |row, mut encoder| {
                    let timing = TimingSnapshot::of(self.histograms.iter().map(Arc::as_ref), row.timing);
                    let sum = timing.sum_micros as f64 / 1e6;
                    encoder.encode_histogram::<NoLabelSet>(sum, timing.count(), &timing.exported(), None)
                },
            )?;
        }
        Ok(())
    }

    fn encode_levels(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let levels = (self.levels)();
        for family in levels.chunk_by(|left, right| left.name == right.name) {
            let name = format!("aspis_{}", family[0].name);
            let rows = encoder.encode_descriptor(&name, family[0].help, None, MetricType::Gauge)?;
            encode_rows(
                rows,
                family,
                |row| row.label.iter().map(|(name, value)| (*name, value.as_ref())).collect(),
                |row, encoder| ConstGauge::new(row.value).encode(encoder),
            )?;
        }
        Ok(())
    }
}

type Labels<'r> = Vec<(&'static str, &'r str)>;

/// Writes the rows of a family with their labels; a family of one row without labels is written without braces.
fn encode_rows<'r, R>(
    mut encoder: MetricEncoder<'_>,
    rows: &'r [R],
    labels: impl Fn(&'r R) -> Labels<'r>,
    write: impl Fn(&R, MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if let [row] = rows
        && labels(row).is_empty()
    {
        return write(row, encoder);
    }
    rows.iter().try_for_each(|row| write(row, encoder.encode_family(&labels(row))?))
}

fn encode_process(figures: &ProcessFigures, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let cpu = encoder.encode_descriptor(
        "process_cpu",
        "User and system processor time.",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    ConstCounter::new(figures.cpu_seconds).encode(cpu)?;
    let start = encoder.encode_descriptor(
        "process_start_time",
        "Start of the process since the epoch.",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    ConstGauge::new(figures.started_at).encode(start)?;
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", figures.resident_len),
        (
            "process_private_memory_bytes",
            "Resident memory without mapped files.",
            figures.resident_private_len,
        ),
        ("process_virtual_memory_bytes", "Address space.", figures.virtual_len),
        ("process_open_fds", "Open files.", figures.open_files),
        ("process_max_fds", "Most open files allowed.", figures.open_files_max),
        ("process_threads", "Threads.", figures.threads),
    ] {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;
    use aspis_telemetry::{Counter, Timing};

    pub(crate) fn sample() -> Metrics {
        let core = Arc::new(CoreCounters::new());
        core.add(Counter::RequestsHit, 7);
        core.set(Counter::ViewerConnectionsOpen, 3);
        let histograms = Arc::new(CoreHistograms::new());
        histograms.record(Timing::RequestHit, 20);
        histograms.record(Timing::RequestHit, 2_000_000);
        Metrics::new(Sources {
            counters: vec![core, Arc::new(CoreCounters::new())],
            histograms: vec![histograms],
            levels: Box::new(|| {
                vec![
                    Level {
                        name: "memory_used_bytes",
                        help: "Used.",
                        label: Some(("purpose", "heads".into())),
                        value: 10,
                    },
                    Level {
                        name: "memory_used_bytes",
                        help: "Used.",
                        label: Some(("purpose", "index".into())),
                        value: 20,
                    },
                    Level { name: "memory_limit_bytes", help: "Limit.", label: None, value: 64 },
                ]
            }),
        })
    }

    #[test]
    fn every_table_is_on_the_page() {
        let page = sample().render(Format::OpenMetrics);
        for line in [
            concat!("aspis_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE aspis_requests counter",
            "aspis_requests_total{result=\"Hit\"} 7",
            "aspis_requests_total{result=\"Miss\"} 0",
            "# TYPE aspis_viewer_connections_open gauge",
            "aspis_viewer_connections_open 3",
            "# TYPE aspis_request_duration_seconds histogram",
            "aspis_request_duration_seconds_count{from=\"cache\"} 2",
            "aspis_request_duration_seconds_bucket{le=\"0.000016\",from=\"cache\"} 0",
            "aspis_request_duration_seconds_bucket{le=\"+Inf\",from=\"cache\"} 2",
            "aspis_memory_used_bytes{purpose=\"index\"} 20",
            "aspis_memory_limit_bytes 64",
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line} in:\n{page}");
        }
        assert!(
            page.contains("\nprocess_cpu_seconds_total ") && page.contains("\nprocess_open_fds "),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn both_texts_are_well_formed() {
        for format in [Format::Classic, Format::OpenMetrics] {
            let page = sample().render(format);
            let mut families = HashSet::new();
            let mut samples = HashSet::new();
            for line in page.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let name = rest.split(' ').next().expect("a name");
                    assert!(families.insert(name.to_owned()), "{name} twice");
                } else if !line.starts_with('#') {
                    let (name, value) = line.rsplit_once(' ').expect("a value");
                    assert!(samples.insert(name.to_owned()), "{name} twice");
                    assert!(value.parse::<f64>().is_ok() && !name.contains("{}"), "{line}");
                }
            }
            assert!(families.len() > 30);
        }
    }

    #[test]
    fn the_classic_text_types_counters_by_their_full_name() {
        let page = sample().render(Format::accepted(Some("text/plain")));
        assert!(page.contains(
            "# HELP aspis_requests_total Requests answered, by result type.\n# TYPE aspis_requests_total counter\n\
             aspis_requests_total{result=\"Hit\"} 7\n"
        ));
        assert!(
            page.contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total "),
            "{page}"
        );
        assert!(!page.contains("# EOF") && !page.contains("# UNIT"), "{page}");
        let accept = Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
        assert_eq!(Format::accepted(accept), Format::OpenMetrics);
        assert_eq!(Format::accepted(None), Format::Classic);
    }
}
