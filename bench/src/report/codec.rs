//! What Criterion found about the codecs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::markdown;

/// Median nanoseconds and bytes by (direction, codec), as Criterion left them.
pub type Codecs = BTreeMap<(String, String), (f64, u64)>;

pub fn read(folder: &Path) -> io::Result<Codecs> {
    let mut codecs = Codecs::new();
    for direction in ["encode", "decode"] {
        for codec in ["rollcall", "postcard", "prost", "rmp-serde"] {
            let json = |file: &str| -> io::Result<Value> {
                let path = folder.join(direction).join(codec).join("new").join(file);
                let text = fs::read_to_string(&path)
                    .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
                Ok(serde_json::from_str(&text)?)
            };
            let ns = json("estimates.json")?["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN);
            let bytes = json("benchmark.json")?["throughput"]["Bytes"].as_u64().unwrap_or_default();
            codecs.insert((direction.to_owned(), codec.to_owned()), (ns, bytes));
        }
    }
    Ok(codecs)
}

pub fn table(codecs: &Codecs) -> String {
    let rows = ["rollcall", "postcard", "prost", "rmp-serde"].map(|codec| {
        let of = |direction: &str| {
            codecs.get(&(direction.to_owned(), codec.to_owned())).copied().unwrap_or((f64::NAN, 0))
        };
        vec![
            codec.to_owned(),
            format!("{:.0}", of("encode").0),
            format!("{:.0}", of("decode").0),
            of("encode").1.to_string(),
        ]
    });
    markdown(&["codec", "encode ns", "decode ns", "bytes"].map(str::to_owned), rows)
}
