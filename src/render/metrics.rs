//! Figures as JSON and as Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use super::json::string;
use super::text::Text;
use crate::metrics::{Families, Family, Number, Sample, Type};

/// An object with one member for each family: its type, its help and its samples.
pub(crate) fn json(families: &Families) -> Vec<u8> {
    let mut out = Text::from(b"{");
    for (at, family) in families.0.iter().enumerate() {
        separate(&mut out, at);
        string(&mut out, family.name.as_bytes());
        out.put(b": {\"type\": ");
        string(&mut out, name(family.kind).as_bytes());
        out.put(b", \"help\": ");
        string(&mut out, family.help.as_bytes());
        out.put(b", \"samples\": [");
        for (at, sample) in family.samples.iter().enumerate() {
            separate(&mut out, at);
            json_sample(&mut out, sample);
        }
        out.put(b"]}");
    }
    out.push(b'}');
    out.into_vec()
}

fn json_sample(out: &mut Text, sample: &Sample) {
    out.put(b"{\"labels\": {");
    for (at, (label, value)) in sample.labels.iter().enumerate() {
        separate(out, at);
        string(out, label.as_bytes());
        out.put(b": ");
        string(out, value.as_bytes());
    }
    out.put(b"}, ");
    match &sample.number {
        Number::Whole(number) => out.put(format!("\"value\": {number}").as_bytes()),
        Number::Histogram { buckets, sum } => {
            let count = buckets.last().map_or(0, |(_, count)| *count);
            out.put(format!("\"count\": {count}, \"sum\": {sum}, \"buckets\": {{").as_bytes());
            for (at, (bound, count)) in buckets.iter().enumerate() {
                separate(out, at);
                out.put(format!("\"{}\": {count}", upper(*bound)).as_bytes());
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
}

fn separate(out: &mut Text, at: usize) {
    if at > 0 {
        out.put(b", ");
    }
}

pub(crate) fn prometheus(families: &Families) -> Vec<u8> {
    let mut out = String::new();
    for family in &families.0 {
        let Family {
            name: family_name,
            help,
            kind,
            ..
        } = family;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {family_name} {help}\n# TYPE {family_name} {}", name(*kind));
        for sample in &family.samples {
            lines(&mut out, family_name, sample);
        }
    }
    out.into_bytes()
}

fn lines(out: &mut String, family: &str, sample: &Sample) {
    let labels = |more: Option<String>| {
        let all = sample.labels.iter().map(|(label, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{label}=\"{value}\"")
        });
        match all.chain(more).collect::<Vec<_>>().join(",") {
            none if none.is_empty() => none,
            some => format!("{{{some}}}"),
        }
    };
    let _ = match &sample.number {
        Number::Whole(number) => writeln!(out, "{family}{} {number}", labels(None)),
        Number::Histogram { buckets, sum } => {
            let mut last = 0;
            for (bound, count) in buckets {
                let _ = writeln!(
                    out,
                    "{family}_bucket{} {count}",
                    labels(Some(format!("le=\"{}\"", upper(*bound))))
                );
                last = *count;
            }
            let labels = labels(None);
            writeln!(out, "{family}_sum{labels} {sum}\n{family}_count{labels} {last}")
        }
    };
}

fn upper(bound: Option<f64>) -> String {
    bound.map_or_else(|| "+Inf".to_owned(), |seconds| seconds.to_string())
}

fn name(kind: Type) -> &'static str {
    match kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Families {
        let mut families = Families::default();
        families.counter(
            "a_total",
            "Has a \\ and\na line.",
            vec![("l", "x\"\\\ny".to_owned())],
            u64::MAX,
        );
        families.gauge("b", "None.", Vec::new(), 0);
        families.histogram(
            "c_seconds",
            "Time.",
            vec![("l", "ä".to_owned())],
            vec![(Some(0.00005), 1), (None, 3)],
            1.5,
        );
        families.counter("a_total", "", vec![("l", "z".to_owned())], 1);
        families
    }

    #[test]
    fn as_prometheus_reads_it() {
        let text = String::from_utf8(prometheus(&families())).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP a_total Has a \\\\ and\\na line.",
                "# TYPE a_total counter",
                "a_total{l=\"x\\\"\\\\\\ny\"} 18446744073709551615",
                "a_total{l=\"z\"} 1",
                "# HELP b None.",
                "# TYPE b gauge",
                "b 0",
                "# HELP c_seconds Time.",
                "# TYPE c_seconds histogram",
                "c_seconds_bucket{l=\"ä\",le=\"0.00005\"} 1",
                "c_seconds_bucket{l=\"ä\",le=\"+Inf\"} 3",
                "c_seconds_sum{l=\"ä\"} 1.5",
                "c_seconds_count{l=\"ä\"} 3",
            ]
        );
    }

    #[test]
    fn as_json() {
        let value: serde_json::Value = serde_json::from_slice(&json(&families())).unwrap();
        assert_eq!(value["a_total"]["samples"][0]["value"], u64::MAX);
        assert_eq!(value["a_total"]["samples"][0]["labels"]["l"], "x\"\\\ny");
        assert_eq!(value["a_total"]["help"], "Has a \\ and\na line.");
        assert_eq!(value["c_seconds"]["samples"][0]["buckets"]["+Inf"], 3);
        assert_eq!(value["c_seconds"]["samples"][0]["sum"], 1.5);
        assert_eq!(value["b"]["type"], "gauge");
    }
}
