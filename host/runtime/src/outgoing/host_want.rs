//! Recognises errors that say that this host lacks something: descriptors, memory, ports. Such an error is no fault of
//! a receiver, of an item or of a component.

use std::error::Error;
use std::fs::File;
use std::io;

use rustix::io::Errno;

/// What the system answers when a process, or the whole machine, has no descriptor, memory, buffer or port left.
const WANTS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// Whether an error, or one that it comes from, is a want of this host.
pub(crate) fn is_host_want(err: &(dyn Error + 'static)) -> bool {
    causes(err).any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        let errno = io.and_then(Errno::from_io_error).or_else(|| cause.downcast_ref::<Errno>().copied());
        errno.is_some_and(|errno| WANTS.contains(&errno))
            || io.is_some_and(|err| err.kind() == io::ErrorKind::OutOfMemory)
    })
}

/// Why this process can open nothing now, if it cannot. The system's resolver hides that reason: it says that the name
/// was not found.
pub(crate) fn open_fault() -> Option<io::Error> {
    File::open("/dev/null").err().filter(|err| is_host_want(err))
}

/// An error and what it comes from, also what an I/O error wraps.
pub(crate) fn causes<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| match err.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
        None => err.source(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_is_recognised_however_deep_it_is_and_other_errors_are_none() {
        for want in WANTS {
            let deep = io::Error::other(io::Error::other(io::Error::from(want)));
            assert!(is_host_want(&deep), "{want}");
            assert!(is_host_want(&want), "{want}");
        }
        for other in [Errno::CONNREFUSED, Errno::NETUNREACH, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_host_want(&io::Error::from(other)), "{other}");
        }
        assert!(open_fault().is_none());
    }
}
