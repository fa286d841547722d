"""The flags of the HTTP server: who may call it, how it speaks, and what its answers carry."""

from octavo.cli.flags import Flag, Kind

BOOL, INT, SIZE, FLOAT, STR, LIST = Kind.BOOL, Kind.INT, Kind.SIZE, Kind.FLOAT, Kind.STR, Kind.LIST

SERVER_FLAGS: tuple[Flag, ...] = (
    Flag(
        name="admin-api-key",
        kind=LIST,
        target="server.admin_api_keys",
        help="key of the admin routes (/sleep, …), absent without one (default: OCTAVO_ADMIN_API_KEY)",
    ),
    Flag(
        name="protect-metrics",
        kind=BOOL,
        target="server.protect_metrics",
        help="/metrics, too, asks for an API key",
    ),
    Flag(
        name="root-path",
        kind=STR,
        target="server.root_path",
        help="what a proxy puts before each path, such as /llm",
    ),
    Flag(
        name="disable-fastapi-docs",
        kind=BOOL,
        target="server.disable_fastapi_docs",
        help="no /openapi.json and no /docs",
    ),
    Flag(
        name="allowed-origins",
        kind=LIST,
        target="server.allowed_origins",
        help="origins whose web pages may use the server; *: any (default: none)",
    ),
    Flag(
        name="allowed-methods",
        kind=LIST,
        target="server.allowed_methods",
        help="methods that those pages may use",
    ),
    Flag(
        name="allowed-headers",
        kind=LIST,
        target="server.allowed_headers",
        help="headers that those pages may send",
    ),
    Flag(
        name="allow-credentials",
        kind=BOOL,
        target="server.allow_credentials",
        help="those pages may send cookies and the like",
    ),
    Flag(
        name="ssl-certfile",
        kind=STR,
        target="server.ssl_certfile",
        help="certificate; with it the server speaks TLS",
    ),
    Flag(
        name="ssl-keyfile",
        kind=STR,
        target="server.ssl_keyfile",
        help="its key, if that is in a file of its own",
    ),
    Flag(
        name="ssl-ca-certs",
        kind=STR,
        target="server.ssl_ca_certs",
        help="certificates of those who sign the certificates of clients",
    ),
    Flag(
        name="ssl-cert-reqs",
        kind=INT,
        target="server.ssl_cert_reqs",
        help="clients show a certificate: 0 no, 1 if they have one, 2 yes",
    ),
    Flag(
        name="ssl-ciphers",
        kind=STR,
        target="server.ssl_ciphers",
        help="OpenSSL names of the ciphers for TLS 1.2",
    ),
    Flag(
        name="enable-ssl-refresh",
        kind=BOOL,
        target="server.enable_ssl_refresh",
        help="read the certificate again when its files change",
    ),
    Flag(
        name="enable-request-id-headers",
        kind=BOOL,
        target="server.enable_request_id_headers",
        help="answers carry X-Request-Id",
    ),
    Flag(
        name="sse-keep-alive-interval",
        kind=FLOAT,
        target="server.sse_keep_alive_interval",
        help="seconds of silence after which a stream gets a comment; 0: never",
    ),
    Flag(
        name="response-role",
        kind=STR,
        target="server.response_role",
        help="role of the answers to chats",
    ),
    Flag(
        name="return-tokens-as-token-ids",
        kind=BOOL,
        target="server.return_tokens_as_token_ids",
        help="log-probabilities name tokens as token_id:N",
    ),
    Flag(
        name="enable-force-include-usage",
        kind=BOOL,
        target="server.enable_force_include_usage",
        help="streams end with their usage, unasked",
    ),
    Flag(
        name="enable-per-request-metrics",
        kind=BOOL,
        target="server.enable_per_request_metrics",
        help="answers carry the times of their request as `metrics`",
    ),
    Flag(
        name="max-body-bytes",
        kind=SIZE,
        target="server.max_body_bytes",
        help="largest body of a request",
    ),
    Flag(
        name="receive-timeout",
        kind=FLOAT,
        target="server.receive_timeout",
        help="seconds that a client may take to send a request",
    ),
    Flag(
        name="stall-timeout",
        kind=FLOAT,
        target="server.stall_timeout",
        help="seconds after which an engine that makes no step is replaced; no step may take longer",
    ),
)
