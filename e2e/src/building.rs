//! Buildings for tests: a seed file with as many places on each floor as a test has trips, so that
//! every trip has coordinates of its own.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A building with robots.
#[derive(Debug, Clone)]
pub struct Building {
    document: Value,
}

impl Building {
    /// The sample that comes with the relay: floors 7 and 8, robots guide-7 and guide-8.
    ///
    /// # Panics
    /// Where the sample cannot be read.
    #[must_use]
    pub fn sample() -> Self {
        let text = std::fs::read_to_string(sample_file()).unwrap();
        Self {
            document: serde_json::from_str(&text).unwrap(),
        }
    }

    /// One robot a floor, named `guide-FLOOR`, without a home, and `places` places on each floor.
    #[must_use]
    pub fn with_places(floors: &[i32], places: usize) -> Self {
        let mut all = Vec::new();
        for &floor in floors {
            for number in 0..places {
                all.push(json!({
                    "name": place(floor, number),
                    "floor": floor,
                    "xaxis": number_as_metres(number),
                    "yaxis": f64::from(floor) + 0.25,
                }));
            }
        }
        let robots: Vec<Value> = floors
            .iter()
            .map(|floor| json!({"name": robot(*floor), "floor": floor}))
            .collect();
        Self {
            document: json!({"places": all, "events": [], "robots": robots}),
        }
    }

    /// Writes the seed file.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("building.json");
        std::fs::write(&path, self.document.to_string()).unwrap();
        path
    }
}

/// The sample's file.
#[must_use]
pub fn sample_file() -> PathBuf {
    crate::root().join("relay/samples/building.json")
}

/// The name of a floor's robot.
#[must_use]
pub fn robot(floor: i32) -> String {
    format!("guide-{floor}")
}

/// The name of a floor's place.
#[must_use]
pub fn place(floor: i32, number: usize) -> String {
    format!("{floor}층 {number:03}호")
}

/// What a robot is told to drive to that place, as its AMQP contract has it.
#[must_use]
pub fn goal(floor: i32, number: usize) -> String {
    format!("{},{}", number_as_metres(number), f64::from(floor) + 0.25)
}

fn number_as_metres(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap()) + 0.5
}
