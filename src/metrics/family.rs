//! Figures with their names, before they become text. Families of one name stand together, as Prometheus wants it.

/// A label and its value.
pub(crate) type Label = (&'static str, String);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Type {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Number {
    Whole(u64),
    /// For each upper bound in seconds, None for the last one, how many were not above it; and the sum of all.
    Histogram {
        buckets: Vec<(Option<f64>, u64)>,
        sum: f64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) labels: Vec<Label>,
    pub(crate) number: Number,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) help: &'static str,
    pub(crate) kind: Type,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug, Default)]
pub(crate) struct Families(pub(crate) Vec<Family>);

impl Families {
    /// A figure that only grows.
    pub(crate) fn counter(&mut self, name: &str, help: &'static str, labels: Vec<Label>, number: u64) {
        self.add(Type::Counter, name, help, labels, Number::Whole(number));
    }

    /// A figure that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &'static str, labels: Vec<Label>, number: u64) {
        self.add(Type::Gauge, name, help, labels, Number::Whole(number));
    }

    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &'static str,
        labels: Vec<Label>,
        buckets: Vec<(Option<f64>, u64)>,
        sum: f64,
    ) {
        self.add(Type::Histogram, name, help, labels, Number::Histogram { buckets, sum });
    }

    fn add(&mut self, kind: Type, name: &str, help: &'static str, labels: Vec<Label>, number: Number) {
        let sample = Sample { labels, number };
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.samples.push(sample),
            None => self.0.push(Family {
                name: name.to_owned(),
                help,
                kind,
                samples: vec![sample],
            }),
        }
    }
}
