//! Testing and checking handlers: the gallery of bugs and fixed twins, the verbs, and the outbox that the
//! checker keeps, compared with a real one.

mod disturbances;
mod gallery;
mod guards;
mod lab;
mod model;
mod verbs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outbox::check::{CheckOptions, CheckReport, check};

use crate::support::guests::gallery;

/// The folder of the gallery's compiled code. Each check of an exhibit would compile it otherwise.
fn code_cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("gallery")
}

/// A folder with the gallery and one case of it, for one of the twins.
struct Exhibit {
    dir: tempfile::TempDir,
}

impl Exhibit {
    fn new(name: &str, twin: &str) -> Self {
        let case = std::fs::read_to_string(gallery().join(format!("cases/{name}.toml"))).unwrap();
        Self::with_case(name, &format!("{case}\n[config]\ntwin = {twin:?}\n"))
    }

    fn with_case(name: &str, case: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cases")).unwrap();
        for file in ["gallery.wasm", "gallery.toml"] {
            std::fs::copy(gallery().join(file), dir.path().join(file)).unwrap();
        }
        std::fs::write(dir.path().join(format!("cases/{name}.toml")), case).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn component(&self) -> PathBuf {
        self.dir.path().join("gallery.wasm")
    }

    async fn check(&self, only: Option<&str>) -> CheckReport {
        let (component, cases) = (self.component(), self.dir.path().join("cases"));
        let only = only.map(|id| id.parse().unwrap());
        let options = CheckOptions { component, cases, only, next: None, cache: Some(code_cache()) };
        check(&options, Arc::new(|_| {})).await.unwrap().pop().unwrap()
    }
}
