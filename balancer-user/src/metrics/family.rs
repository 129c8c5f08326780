//! Builds what the Prometheus encoder takes: a definition with values.

use std::iter::zip;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile,
    Summary,
};

use super::{Definition, Kind};

/// A metric with the values gathered so far.
pub(super) struct Family {
    definition: Definition,
    metrics: Vec<Metric>,
}

impl Family {
    pub(super) fn new(definition: Definition) -> Self {
        Self {
            definition,
            metrics: Vec::new(),
        }
    }

    /// With one value and no labels.
    pub(super) fn single(definition: Definition, value: f64) -> Self {
        let mut family = Self::new(definition);
        family.push(&[], value);
        family
    }

    /// Adds the value for these labels, which are in the definition's order.
    pub(super) fn push(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.labelled(labels);
        match self.definition.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram | Kind::Summary => {
                debug_assert!(false, "{} has no single value", self.definition.name);
            }
        }
        self.metrics.push(metric);
    }

    /// Adds counts up to and with each bound, in rising order, and how many there are with those
    /// above the last bound.
    pub(super) fn push_histogram(
        &mut self,
        labels: &[&str],
        buckets: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let bounds = buckets.iter().map(|(bound, cumulative)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(bounds.collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = self.labelled(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// Adds quantiles (a share of 1, and its value), and how many values there are.
    pub(super) fn push_summary(
        &mut self,
        labels: &[&str],
        quantiles: &[(f64, f64)],
        count: u64,
        sum: f64,
    ) {
        let quantiles = quantiles.iter().map(|(share, value)| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(*share);
            quantile.set_value(*value);
            quantile
        });
        let mut summary = Summary::default();
        summary.set_quantile(quantiles.collect());
        summary.set_sample_count(count);
        summary.set_sample_sum(sum);
        let mut metric = self.labelled(labels);
        metric.set_summary(summary);
        self.metrics.push(metric);
    }

    fn labelled(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(
            values.len(),
            self.definition.labels.len(),
            "{}",
            self.definition.name
        );
        let pairs = zip(self.definition.labels, values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }

    /// For the encoder; none if nothing was gathered, which it does not take.
    pub(super) fn finish(self) -> Option<MetricFamily> {
        if self.metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(self.definition.name.to_owned());
        family.set_help(self.definition.help.to_owned());
        family.set_field_type(match self.definition.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
            Kind::Summary => MetricType::SUMMARY,
        });
        family.set_metric(self.metrics);
        Some(family)
    }
}
