//! Points where a test lets the process die: between intent, call, answer, persist, publish, status and finalizer.
//!
//! In a release build there is nothing of it: no file is read, no variable is looked at, and the calls are empty. In a
//! test build, `DCR_OPERATOR_CRASH_POINTS` names a folder. Every point that is reached is appended to its file
//! `reached`; the point that its file `crash` names ends the process, once; a step that its file `broken` names is left
//! out, so that a test can see that others notice.

/// The work has come to this point.
#[cfg(debug_assertions)]
pub fn reached(place: &str, moment: &str) {
    armed::reached(&format!("{place}: {moment}"));
}

/// The work has come to this point.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_place: &str, _moment: &str) {}

/// Whether a test wants this to be left out.
#[cfg(debug_assertions)]
pub fn is_broken(what: &str) -> bool {
    armed::is_broken(what)
}

/// Whether a test wants this to be left out.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn is_broken(_what: &str) -> bool {
    false
}

#[cfg(debug_assertions)]
mod armed {
    use std::{env, fs, io::Write, path::PathBuf, sync::OnceLock};

    fn folder() -> Option<&'static PathBuf> {
        static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
        FOLDER.get_or_init(|| env::var_os("DCR_OPERATOR_CRASH_POINTS").map(PathBuf::from)).as_ref()
    }

    pub fn reached(point: &str) {
        let Some(folder) = folder() else { return };
        if let Ok(mut file) = fs::File::options().create(true).append(true).open(folder.join("reached")) {
            let _ = file.write_all(format!("{point}\n").as_bytes());
        }
        let crash = folder.join("crash");
        // Whoever removes the file is the one that dies.
        if fs::read_to_string(&crash).is_ok_and(|asked| asked == point) && fs::remove_file(&crash).is_ok() {
            std::process::abort();
        }
    }

    pub fn is_broken(what: &str) -> bool {
        folder().and_then(|folder| fs::read_to_string(folder.join("broken")).ok()).is_some_and(|asked| asked == what)
    }
}
