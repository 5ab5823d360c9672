//! Connections that die, authorities of the operator, and what the host adds, against real sockets.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::{Empty, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::load::manifest::Manifest;
use crate::outgoing::backend::SendError;
use crate::outgoing::resolve::SystemResolver;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn network(url: &str, tls: &TlsConfig) -> Network {
    let manifest = format!("[[grant.http]]\norigin = '{url}'\nmethods = ['GET']\nprivate = true\n");
    let manifest = Manifest::parse(&manifest, &(Arc::new(|_: &str| None) as _)).unwrap();
    Network::new(Arc::new(manifest.grants), Arc::new(SystemResolver), tls)
}

async fn get(network: &Network, url: &str, timeout: Option<Duration>) -> Result<Response<WasiBody>, SendError> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    network.send(Request::get(url).body(body).unwrap(), timeout).await
}

/// A receiver that answers only the first request of each connection, and counts connections.
async fn forgetful() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, connections) = (format!("http://{}/", listener.local_addr().unwrap()), Arc::<AtomicU32>::default());
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(OK.as_bytes()).await.unwrap();
            held.push(stream);
        }
    });
    (url, connections)
}

/// Sends until a request goes out on a connection that was used before.
async fn reuse(network: &Network, url: &str) -> SendError {
    loop {
        match get(network, url, Some(Duration::from_millis(100))).await {
            Ok(response) => drop(response.into_body().collect().await.unwrap()),
            Err(err) => return err,
        }
        // The connection goes back to the pool in a task of its own.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_timeout_on_a_reused_connection_makes_the_pool_forget_the_others() {
    let (url, connections) = forgetful().await;
    let network = network(&url, &TlsConfig::public());
    // Two connections that wait in the pool, both of them dead.
    let both = tokio::join!(get(&network, &url, None), get(&network, &url, None));
    drop((both.0.unwrap().into_body().collect().await, both.1.unwrap().into_body().collect().await));
    tokio::task::yield_now().await;
    assert!(matches!(reuse(&network, &url).await.error, Error::HttpResponseTimeout));
    let before = connections.load(Ordering::SeqCst);
    let sent = get(&network, &url, Some(Duration::from_secs(30))).await;
    assert!(sent.is_ok(), "the request went out on a dead connection");
    assert_eq!(connections.load(Ordering::SeqCst), before + 1, "the request went out on a new connection");
}

#[tokio::test]
async fn a_response_without_a_date_gets_one_and_a_request_names_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let head = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        String::from_utf8(head[..read].to_vec()).unwrap()
    });
    let response = get(&network(&url, &TlsConfig::public()), &url, None).await.unwrap();
    assert!(httpdate::parse_http_date(response.headers()[DATE].to_str().unwrap()).is_ok());
    assert!(head.await.unwrap().contains(&format!("user-agent: outbox/{}\r\n", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn a_refused_connection_is_told_with_its_address() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{address}/");
    let err = get(&network(&url, &TlsConfig::public()), &url, None).await.unwrap_err();
    let fault = err.fault.unwrap();
    assert!(matches!(err.error, Error::ConnectionRefused) && !err.was_sent && !fault.is_hosts);
    assert_eq!(fault.what, format!("no connection to 127.0.0.1: {address}: Connection refused (os error 111)"));
}

/// Makes a certificate with openssl, signed by `by` or by itself.
fn certify(dir: &Path, name: &str, by: Option<&str>) {
    let is_authority = if by.is_none() { "TRUE" } else { "FALSE" };
    let profile = format!(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n\
         basicConstraints=critical,CA:{is_authority}\nsubjectAltName=DNS:localhost\n"
    );
    std::fs::write(dir.join("profile"), profile).unwrap();
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-config", "profile", "-subj", &format!("/CN={name}")]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
    if let Some(by) = by {
        command.args(["-CA", &format!("{by}.crt"), "-CAkey", &format!("{by}.key")]);
    }
    assert!(command.output().expect("openssl is installed: `make tools`").status.success());
}

/// A receiver with TLS whose certificate an authority of its own has signed.
fn receiver_with_tls(dir: &Path) -> String {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(dir.join("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            if tls.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                tls.write_all(OK.as_bytes()).unwrap();
            }
        }
    });
    format!("https://localhost:{port}/")
}

#[tokio::test]
async fn an_authority_of_the_operator_is_believed_and_a_refusal_says_what_tls_refused() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "authority", None);
    certify(dir.path(), "server", Some("authority"));
    let url = receiver_with_tls(dir.path());
    let believed = TlsConfig::new(&[dir.path().join("authority.crt")]).unwrap();
    assert_eq!(get(&network(&url, &believed), &url, None).await.unwrap().status(), 200);

    let err = get(&network(&url, &TlsConfig::public()), &url, None).await.unwrap_err();
    let words = err.fault.unwrap().what;
    assert!(matches!(err.error, Error::TlsCertificateError) && !err.was_sent);
    assert!(words.contains("UnknownIssuer"), "{words}");

    let (plain, _) = forgetful().await;
    let url = plain.replace("http://127.0.0.1", "https://localhost");
    let err = get(&network(&url, &believed), &url, None).await.unwrap_err();
    let words = err.fault.unwrap().what;
    assert!(matches!(err.error, Error::TlsProtocolError), "{:?}: {words}", err.error);
}

/// Sends a body, which a dead connection must not swallow.
#[tokio::test]
async fn a_body_arrives_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with("hello") {
            let mut part = vec![0; 4096];
            let read = stream.read(&mut part).await.unwrap();
            text.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        stream.write_all(OK.as_bytes()).await.unwrap();
        text
    });
    let network = network(&url, &TlsConfig::public());
    let body = Full::new("hello".into()).map_err(|never| match never {}).boxed_unsync();
    network.send(Request::post(&url).body(body).unwrap(), None).await.unwrap();
    assert!(received.await.unwrap().contains("content-length: 5\r\n"));
}

/// A receiver that answers the first request of each connection, and hands the connections over.
async fn receiver_of_connections() -> (String, tokio::sync::mpsc::UnboundedReceiver<tokio::net::TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, (answered, connections)) =
        (format!("http://{}/", listener.local_addr().unwrap()), tokio::sync::mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(OK.as_bytes()).await.unwrap();
            answered.send(stream).unwrap();
        }
    });
    (url, connections)
}

#[tokio::test]
async fn a_request_that_a_dead_connection_lost_is_sent_again_at_once() {
    let (url, mut connections) = receiver_of_connections().await;
    let network = network(&url, &TlsConfig::public());
    drop(get(&network, &url, None).await.unwrap().into_body().collect().await.unwrap());
    let idle = connections.recv().await.unwrap();
    // The connection goes back to the pool in a task of its own.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    // This thread polls no socket in between, so the request goes out before the client can see the end.
    drop(idle);
    let answer = get(&network, &url, Some(Duration::from_secs(30))).await;
    assert!(answer.is_ok(), "{:?}", answer.map(drop).unwrap_err());
    connections.recv().await.expect("it was sent on a second connection");
}
