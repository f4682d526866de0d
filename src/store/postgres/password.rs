//! A password that is not in the URL.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio_postgres::config::Host;

/// `PGPASSWORD`, else the first matching line of `PGPASSFILE` or `~/.pgpass`.
pub(super) fn from_environment(driver: &tokio_postgres::Config) -> Option<String> {
    if let Ok(password) = env::var("PGPASSWORD") {
        return Some(password);
    }
    let file = env::var_os("PGPASSFILE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass")))?;
    if fs::metadata(&file).ok()?.permissions().mode() & 0o077 != 0 {
        // As in libpq: a password file that others can read is ignored.
        let file = file.display();
        tracing::warn!("the password file {file} is not used, because others can read it; chmod 600 {file}");
        return None;
    }
    let lines = fs::read_to_string(file).ok()?;
    let user = driver.get_user()?;
    let database = driver.get_dbname().unwrap_or(user);
    // All hosts get one password, so the first host that has a line decides.
    driver.get_hosts().iter().enumerate().find_map(|(at, host)| {
        let ports = driver.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432).to_string();
        let host = match host {
            Host::Tcp(name) => name.clone(),
            // As in libpq: a socket counts as the local host.
            Host::Unix(_) => "localhost".to_owned(),
        };
        let wanted = [host.as_str(), port.as_str(), database, user];
        lines.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let fields = split_pgpass(line);
            let [.., password] = fields.as_slice() else { return None };
            let fits =
                fields.len() == 5 && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
            fits.then(|| password.clone())
        })
    })
}

/// `host:port:database:user:password`. A backslash escapes ':' and '\'.
fn split_pgpass(line: &str) -> Vec<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => field.extend(characters.next()),
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}
