//! The released program has the C library in it, which then looks up the names of hosts and users in files and DNS alone. See
//! decision 0030.

/// Makes a C library that is part of the program look in files and DNS alone, as the shared one is most often set to.
///
/// What else `/etc/nsswitch.conf` may name are shared libraries that are loaded for the look-up. They belong to the C library
/// of the system that the program runs on, which need not be that of the system where it was built, and two kinds in one
/// process crash.
pub fn look_inside() {
    #[cfg(static_libc)]
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files")] {
        #[expect(unsafe_code, reason = "two strings for as long as the call takes, before there is another thread")]
        // SAFETY: both end with NUL, and the C library keeps neither.
        unsafe {
            __nss_configure_lookup(database.as_ptr(), services.as_ptr());
        }
    }
}

#[cfg(static_libc)]
#[expect(unsafe_code, reason = "glibc's own, which no crate declares")]
unsafe extern "C" {
    /// See nss.h. It fails where memory or the database's name does, and neither does here.
    fn __nss_configure_lookup(database: *const std::ffi::c_char, services: *const std::ffi::c_char) -> std::ffi::c_int;
}
