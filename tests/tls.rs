//! Connections to a PostgreSQL server that accepts only encrypted connections with a password.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::host::HostConfig;
use crate::support::postgres::{Cluster, Durability};

/// The openssl configuration of a certificate. It replaces the system's configuration, which may add other extensions.
fn profile(is_authority: bool, names: &str) -> String {
    let is_authority = if is_authority { "TRUE" } else { "FALSE" };
    format!(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nbasicConstraints=critical,CA:{is_authority}\nsubjectAltName={names}\n"
    )
}

/// Makes a key and a certificate, signed by the certificate `by` or by itself.
fn certify(cluster: &Cluster, name: &str, names: &str, by: Option<&str>) {
    std::fs::write(cluster.dir.join(format!("{name}.cnf")), profile(by.is_none(), names)).unwrap();
    let mut command = cluster.command("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-config", &format!("{name}.cnf"), "-subj", &format!("/CN={name}")]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
    if let Some(by) = by {
        command.args(["-CA", &format!("{by}.crt"), "-CAkey", &format!("{by}.key")]);
    }
    let made = command.output().expect("openssl is installed: `make tools`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Makes the server present this certificate from now on.
fn present(cluster: &Cluster, name: &str) {
    for (setting, ending) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
        let file = cluster.dir.join(format!("{name}.{ending}"));
        cluster.sql("postgres", &format!("ALTER SYSTEM SET {setting} = '{}'", file.display())).unwrap();
    }
    cluster.sql("postgres", "ALTER SYSTEM SET ssl = on").unwrap();
    cluster.sql("postgres", "SELECT pg_reload_conf()").unwrap();
}

/// A server that requires TLS and a password from the role `outbox`.
fn strict() -> Arc<Cluster> {
    let cluster = Cluster::start(Durability::Hasty);
    certify(&cluster, "authority", "DNS:authority", None);
    certify(&cluster, "stranger", "DNS:stranger", None);
    certify(&cluster, "server", "IP:127.0.0.1", Some("authority"));
    certify(&cluster, "elsewhere", "DNS:db.example", Some("authority"));
    cluster.sql("postgres", "ALTER ROLE outbox PASSWORD 'hunter2/@'").unwrap();
    let rules = "host all postgres 127.0.0.1/32 trust\nhostssl all outbox 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(cluster.dir.join("data/pg_hba.conf"), rules).unwrap();
    present(&cluster, "server");
    cluster
}

fn parameters(dir: &Path, mode: &str, authority: &str) -> String {
    format!("?sslmode={mode}&sslrootcert={}", dir.join(format!("{authority}.crt")).display())
}

#[test]
fn a_server_is_believed_by_its_certificate_its_name_and_nothing_less() {
    let cluster = strict();
    let database = cluster.empty_database();
    let dir = tempfile::tempdir().unwrap();
    let password: PathBuf = dir.path().join("password");
    std::fs::write(&password, "hunter2/@\n").unwrap();
    let plan = |parameters: &str| {
        HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), dir.path())
            .set("OUTBOX_DB", &format!("{}{parameters}", database.url()))
            .set("OUTBOX_DB_PASSWORD_FILE", password.to_str().unwrap())
    };
    let refused = |plan: HostConfig, why: &str| {
        let output = plan.run(&["migrate"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(why) && !told.contains("hunter2"), "{why}: {told}");
    };
    let known = parameters(&cluster.dir, "verify-full", "authority");
    refused(plan("?sslmode=require"), "certificate");
    refused(plan(&parameters(&cluster.dir, "verify-full", "stranger")), "certificate");
    refused(plan("?sslmode=disable"), "no encryption");
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "hunter3").unwrap();
    refused(plan(&known).set("OUTBOX_DB_PASSWORD_FILE", wrong.to_str().unwrap()), "password");
    present(&cluster, "elsewhere");
    refused(plan(&known), "certificate");
    present(&cluster, "server");
    let migrated = plan(&known).json(&["migrate", "--json"]);
    assert_eq!(migrated["from"], 0);
    let enqueue = ["enqueue", "--type", "mail", "--key", "k", "--payload", "{}", "--json"];
    plan(&known).json(&enqueue);
    assert_eq!(plan(&known).json(&["list", "--json"]).as_array().unwrap().len(), 1);
}
