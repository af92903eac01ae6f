//! Figures as tables for display and JSON for programs.

use std::{fs, io, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::machine;

/// The cell of a step that the generator could not carry.
const GENERATOR_BOUND: &str = "generator-bound";

/// All figures of a run.
pub struct Report {
    figures: Vec<Value>,
}

/// One figure: a table that is printed as it grows.
pub struct Table<'a> {
    report: &'a mut Report,
    name: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Value>,
}

impl Report {
    /// Begins a run: prints the description of the machine.
    pub fn begin() -> Self {
        println!("{}", machine::description());
        Self { figures: Vec::new() }
    }

    /// Begins a figure.
    pub fn table(&mut self, name: &'static str, columns: &'static [&'static str]) -> Table<'_> {
        println!("\n{name}");
        println!("{}", columns.iter().map(|c| format!("{c:>16}")).collect::<String>());
        Table { report: self, name, columns, rows: Vec::new() }
    }

    /// Writes all figures.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let all = json!({
            "machine": machine::description(),
            "time_ms": twinbox_clock::wall().0,
            "figures": self.figures,
        });
        fs::write(path, format!("{all:#}\n"))
    }
}

impl Table<'_> {
    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: &[Value]) {
        let text = |cell: &Value| match cell {
            Value::String(s) => s.clone(),
            Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(0.0)),
            other => other.to_string(),
        };
        println!("{}", cells.iter().map(|c| format!("{:>16}", text(c))).collect::<String>());
        let row: Map<String, Value> =
            self.columns.iter().map(ToString::to_string).zip(cells.iter().cloned()).collect();
        self.rows.push(Value::Object(row));
    }

    /// Adds a row that shows the generator as the limit; `first` is the step.
    pub fn generator_bound(&mut self, first: Value, late: Duration) {
        eprintln!("the load generator was {:.1} ms late itself", ms(late));
        let mut cells = vec![json!(GENERATOR_BOUND); self.columns.len()];
        cells[0] = first;
        self.row(&cells);
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        self.report.figures.push(json!({ "name": self.name, "rows": self.rows }));
    }
}

/// Milliseconds with fraction.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The time below which this share (0 to 1) of `times` lies; zero for none.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&mut times, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&mut times, 1.0), Duration::from_millis(100));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
