//! A clock that jumps: the real-time clock of the processes that are started with it. Their other clocks, by which they
//! wait, go on as they should.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::Command,
};

use super::{process::Folder, repository};

pub struct Clock {
    folder: Folder,
    file: File,
}

impl Clock {
    const LIBRARY: &str = "clock.so";
    const FILE: &str = "ahead";

    /// The right time. A library that is preloaded makes it another; it is built with the C compiler that Rust links with.
    pub fn new() -> Self {
        let folder = Folder::new("clock");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(folder.join(Self::LIBRARY));
        let compiled = compile.arg(repository("tests/support/clock.c")).status();
        assert!(compiled.expect("cc starts").success(), "cc could not build tests/support/clock.c");
        fs::write(folder.join(Self::FILE), 0_i64.to_ne_bytes()).expect("a file");
        let file = File::options().write(true).open(folder.join(Self::FILE)).expect("the file");
        Self { folder, file }
    }

    /// What the process needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.folder.join(name).to_str().expect("a UTF-8 path").to_owned();
        vec![("LD_PRELOAD".into(), path(Self::LIBRARY)), ("CLOCK_AHEAD".into(), path(Self::FILE))]
    }

    /// Jumps, forward or back. In place: the processes have the file mapped.
    pub fn set_ahead(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("a file");
    }
}
