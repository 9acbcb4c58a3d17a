package socketio

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestConnectReply4(t *testing.T) {
	for namespace, want := range map[string]string{
		"/":        `0{"sid":"S-1"}`,
		"/admin":   `0/admin,{"sid":"/admin#S-1"}`,
		`/a"\b<é>`: `0/a"\b<é>,{"sid":"/a\"\\b<é>#S-1"}`,
	} {
		if got := string(ConnectReply4(namespace, "S-1")); got != want {
			t.Errorf("ConnectReply4(%q) = %s, want %s", namespace, got, want)
		}
	}
}

func TestConnectRequest4(t *testing.T) {
	keys := []string{"token", "n", "on", "absent", "list", "gone"}
	for connect, want := range map[string]string{
		`0/admin,`:                                `0/admin,`,
		`0/admin`:                                 `0/admin,`,
		`0/admin,{"other":1}`:                     `0/admin,`,
		`0/admin,{"token":"a&b, c/é\u00e9"}`:      `0/admin?token=a%26b%2C%20c%2F%C3%A9%C3%A9,`,
		`0/admin,{"n":1.5,"token":"","on":true}`:  `0/admin?token=&n=1.5&on=true,`,
		`0/admin,{"list":[1],"gone":null,"n":-1}`: `0/admin?n=-1,`,
		`0/admin,{"token":"x"`:                    `0/admin,`,
	} {
		if got := string(ConnectRequest4("/admin", AuthQuery([]byte(connect), keys))); got != want {
			t.Errorf("%s became %s, want %s", connect, got, want)
		}
	}
	if got := AuthQuery([]byte(`0{"token":"x"}`), nil); got != "" {
		t.Errorf("without keys the query is %q", got)
	}
	if got := AuthQuery([]byte(`2{"token":"x"}`), keys); got != "" {
		t.Errorf("an event has the query %q", got)
	}
}

func TestRefusal(t *testing.T) {
	for _, tt := range []struct{ namespace, reason, want string }{
		{"/", `"not you"`, `4{"message":"not you"}`},
		{"/admin", `"Invalid namespace"`, `4/admin,{"message":"Invalid namespace"}`},
		{"/", `{"code":17,"message":"no"}`, `4{"message":"no","data":{"code":17,"message":"no"}}`},
		{"/", `{"code":17}`, `4{"message":"Connection refused","data":{"code":17}}`},
		{"/", `12`, `4{"message":"Connection refused","data":12}`},
		{"/", `{"message":5}`, `4{"message":"Connection refused","data":{"message":5}}`},
		{"/", `["a"]`, `4{"message":"Connection refused","data":["a"]}`},
		{"/", ``, `4{"message":"Connection refused"}`},
		{"/", "no \"JSON\" <\xff>\n", `4{"message":"no \"JSON\" <` + "\uFFFD" + `>"}`},
	} {
		if got := string(Refusal(tt.namespace, []byte(tt.reason))); got != tt.want {
			t.Errorf("Refusal(%q) = %s, want %s", tt.reason, got, tt.want)
		}
	}
}

func TestErrorEvent(t *testing.T) {
	for in, want := range map[string]string{
		`4"oops"`:         `2["error","oops"]`,
		`4/admin,{"a":1}`: `2/admin,["error",{"a":1}]`,
		`4/admin`:         `2/admin,["error"]`,
		`4`:               `2["error"]`,
		`412`:             `2["error",12]`,
		`4/admin,12`:      `2/admin,["error",12]`,
		`4oops`:           `2["error","oops"]`,
	} {
		h, err := ParseHeader([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(ErrorEvent(string(h.Namespace), []byte(in))); got != want {
			t.Errorf("ErrorEvent(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestWithoutQuery(t *testing.T) {
	for in, want := range map[string]string{"/": "/", "/admin": "/admin", "/admin?a=b?c": "/admin", "/?x": "/"} {
		if got := string(WithoutQuery([]byte(in))); got != want {
			t.Errorf("WithoutQuery(%s) = %s, want %s", in, got, want)
		}
	}
}

// A client's namespace and the values of its auth reach the server as one CONNECT of protocol v4,
// from which a server reads the same values. This holds for any CONNECT.
func FuzzConnectRequest4(f *testing.F) {
	for _, s := range []string{`0/admin,{"token":"a&b, c/é"}`, `0/a,{"token":1}`, `0/a,{"token":{"x":1}}`, `0/a,`, `0/a,{"tok\u0065n":"x","token":"y"}`, `2["token"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, connect []byte) {
		before := bytes.Clone(connect)
		query := AuthQuery(connect, []string{"token"})
		p := ConnectRequest4("/admin", query)
		if !bytes.Equal(connect, before) {
			t.Fatal("AuthQuery changed its argument")
		}
		h, err := ParseHeader(p)
		if err != nil || h.Type != Connect || h.Data != len(p) || string(WithoutQuery(h.Namespace)) != "/admin" {
			t.Fatalf("%q became %q: %+v, %v", connect, p, h, err)
		}
		values, err := url.ParseQuery(query)
		if err != nil || len(values) > 1 || strings.ContainsAny(query, "+, /?#") {
			t.Fatalf("%q has the query %q: %v", connect, query, err)
		}
		var auth map[string]any
		c, err := ParseHeader(connect)
		if err != nil || c.Type != Connect || json.Unmarshal(connect[c.Data:], &auth) != nil {
			return
		}
		if text, ok := auth["token"].(string); ok && values.Get("token") != text {
			t.Fatalf("%q has the token %q, want %q", connect, values.Get("token"), text)
		}
	})
}

// Whatever a server sends as an ERROR, a client of protocol v5 can decode its translation.
func FuzzError4(f *testing.F) {
	for _, s := range []string{`4"x"`, `4/admin,{"message":"m"}`, `4`, `4/a`, `412`, `4/a,[1`, "4\xff", `4{"message":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := ParseHeader(p)
		if err != nil || h.Type != ConnectError {
			return
		}
		namespace := string(h.Namespace)
		for _, out := range [][]byte{ErrorEvent(namespace, p), Refusal(namespace, ErrorReason(p))} {
			o, err := ParseHeader(out)
			if err != nil || string(o.Namespace) != namespace || o.HasAck() || !json.Valid(out[o.Data:]) {
				t.Fatalf("%q became %q: %+v, %v", p, out, o, err)
			}
			if o.IsEvent() {
				if name, ok := EventName(out[o.Data:]); !ok || string(name) != "error" {
					t.Fatalf("%q became the event %q", p, name)
				}
			}
		}
	})
}

func TestToV4(t *testing.T) {
	for in, want := range map[string]string{
		`0{"sid":"S"}`:                        `0`,
		`0/admin,{"sid":"/admin#S"}`:          `0/admin,`,
		`4{"message":"no"}`:                   `4"no"`,
		`4/a,{"message":"no","data":{"c":1}}`: `4/a,{"c":1}`,
		`4/a,{"data":5,"message":"no"}`:       `4/a,5`,
		`4"no"`:                               `4"no"`,
		`4`:                                   `4`,
		`1/admin,`:                            `1/admin,`,
		`2["a",{"message":1}]`:                `2["a",{"message":1}]`,
		`x`:                                   `x`,
	} {
		if got := string(ToV4([]byte(in))); got != want {
			t.Errorf("ToV4(%s) = %s, want %s", in, got, want)
		}
	}
}
