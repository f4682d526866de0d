//! Artifacts: packed the same everywhere, uploaded once, unpacked safely.

mod deploy;
mod hostile;
mod packing;
mod replicas;
mod retention;
mod upload;

use std::path::PathBuf;

use reqwest::{Method, Response, header::HeaderMap};
use sha2::{Digest as _, Sha256};

use crate::harness::{Answer, TestServer, send};

/// A project `web` whose `deploy` shows what it finds.
const CONFIG: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "show"
run = '''
find . -mindepth 1 | sort
echo "input=$INPUT_COLOUR"
test ! -e version || echo "::singletrack output version=$(cat version)::"
'''
"#;

/// The name of these bytes.
fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

impl TestServer {
    /// Uploads an artifact with these headers.
    async fn put(&self, name: &str, headers: HeaderMap, body: Vec<u8>) -> Answer {
        send(self.request(Method::PUT, &format!("/v1/artifacts/{name}")).headers(headers).body(body)).await
    }

    /// Uploads an artifact whole, and its name.
    async fn uploaded(&self, bytes: &[u8]) -> String {
        let name = sha256(bytes);
        let answer = self.put(&name, HeaderMap::new(), bytes.to_vec()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        name
    }

    async fn look(&self, name: &str) -> Response {
        self.request(Method::HEAD, &format!("/v1/artifacts/{name}")).send().await.unwrap()
    }

    /// At which byte the upload goes on; `None` once it is whole.
    async fn offset(&self, name: &str) -> Option<usize> {
        let response = self.look(name).await;
        match response.status().as_u16() {
            200 => None,
            404 => Some(response.headers()["singletrack-upload-offset"].to_str().unwrap().parse().unwrap()),
            status => panic!("{status}"),
        }
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.path("singletrack-work/artifacts").join(name)
    }
}
