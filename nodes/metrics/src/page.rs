//! Text in Prometheus' exposition format, version 0.0.4.

use std::fmt::Write;

/// Text in the exposition format.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Gauges (values that rise and fall), by label.
    pub fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.family(name, help, "gauge", values);
    }

    /// Counters (values that only rise), by label.
    pub fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.family(name, help, "counter", values);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.head(name, help, kind);
        for (labels, value) in values {
            self.line(name, &labels, value);
        }
    }

    /// `counts[i]` values were at most `bounds_us[i]` microseconds and above the previous bound; the last count is
    /// of values above all bounds.
    pub fn histogram(&mut self, name: &str, help: &str, bounds_us: &[u64], counts: &[u64], sum_us: u64) {
        self.head(name, help, "histogram");
        let mut seen = 0;
        for (i, count) in counts.iter().enumerate() {
            seen += count;
            let bound = bounds_us.get(i).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            self.line(&format!("{name}_bucket"), &format!("le=\"{bound}\""), seen as f64);
        }
        self.line(&format!("{name}_sum"), "", sum_us as f64 / 1e6);
        self.line(&format!("{name}_count"), "", seen as f64);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}

/// A value without labels.
pub fn plain(value: f64) -> (String, f64) {
    (String::new(), value)
}
