//! Loads an image archive into a store and says what became of it: `load STORE ARCHIVE|-`.
//!
//! For measuring and for looking at layers with `fsck.erofs` and `dump.erofs`; users have `capsid load`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use capsid_image::{Limits, LoadSource, Progress, Store};

struct Warnings;

impl Progress for Warnings {
    fn warning(&self, text: &str) {
        eprintln!("warning: {text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, archive] = arguments.as_slice() else { return Err("usage: load STORE ARCHIVE|-".into()) };
    let source = match archive.as_str() {
        "-" => LoadSource::Stream(Box::new(std::io::stdin())),
        path => LoadSource::Path(path.into()),
    };
    let store = Store::open(Path::new(store))?;
    let start = Instant::now();
    let loaded = match store.load(source, &Limits::default(), &Warnings) {
        Ok(loaded) => loaded,
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                eprintln!("{error}");
                cause = error.source();
            }
            std::process::exit(1);
        }
    };
    let mut output = std::io::stdout().lock();
    writeln!(output, "loaded in {:?}", start.elapsed())?;
    for image in loaded {
        writeln!(output, "{:?} {}", image.references, image.id)?;
        let image = store.resolve(&image.id.to_string())?;
        for layer in image.file_system_layers() {
            writeln!(output, "  {} {}", layer.size, layer.path.display())?;
        }
    }
    Ok(())
}
