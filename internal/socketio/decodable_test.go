package socketio

import "testing"

func TestCheckDecodable(t *testing.T) {
	tests := []struct {
		name, in string
		want     Decodability
	}{
		{"event", `2["a",1]`, Decodable},
		{"event with a number for a name", `2[5]`, Decodable},
		{"event with an escaped name", `2["\u0061"]`, Decodable},
		{"event that asks for an acknowledgement", `2/chat,7["a"]`, Decodable},
		{"acknowledgement", `37[]`, Decodable},
		{"disconnect", `1/chat,`, Decodable},
		{"placeholder", `51-["a",{"_placeholder":true,"num":0}]`, Decodable},
		{"text like a placeholder", `51-["a",{"_placeholder":1,"num":5}]`, Decodable},
		{"ten attachments", `510-["a"]`, Decodable},

		{"eleven attachments", `511-["a"]`, Doubtful},
		{"no attachments", `50-["a"]`, Doubtful},
		{"placeholder beyond the attachments", `51-["a",[{"x":{"_placeholder":true,"num":1}}]]`, Doubtful},
		{"placeholder without a number", `51-["a",{"_placeholder":true}]`, Doubtful},
		{"reserved name", `2["disconnect"]`, Doubtful},
		{"reserved name, escaped", `2["\u0064isconnect"]`, Doubtful},
		{"no name", `2[null,null]`, Doubtful},
		{"invalid UTF-8", "2[\"a\xff\"]", Doubtful},
		{"unknown to the header's parser", `9abc`, Doubtful},

		{"NaN", `2["n",NaN]`, Undecodable},
		{"NaN in an acknowledgement", `37[NaN]`, Undecodable},
		{"no end", `2["a"`, Undecodable},
		{"no arguments", `2[ ]`, Undecodable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckDecodable([]byte(tt.in)); got != tt.want {
				t.Errorf("CheckDecodable(%q) = %v, want %v", tt.in, got, tt.want)
			}
		})
	}
}

func TestAppendReaddressed(t *testing.T) {
	for in, want := range map[string]string{
		`2["a",1]`:          `2/x,["a",1]`,
		`2/chat,["a"]`:      `2/x,["a"]`,
		`2/chat,12["a"]`:    `2/x,12["a"]`,
		`211-["a"]`:         ``, // no packet
		`511-["a"]`:         `511-/x,["a"]`,
		`511-/chat,7["a"]`:  `511-/x,7["a"]`,
		`37[1]`:             `3/x,7[1]`,
		`61-/a/b,7["a",1]`:  `61-/x,7["a",1]`,
		`2/chat9,["a-b"]`:   `2/x,["a-b"]`,
		`51-/a-b,12["a-b"]`: `51-/x,12["a-b"]`,
	} {
		h, err := ParseHeader([]byte(in))
		if err != nil {
			if want != "" {
				t.Errorf("ParseHeader(%q): %v", in, err)
			}
			continue
		}
		if got := string(AppendReaddressed(nil, []byte(in), &h, "/x")); got != want {
			t.Errorf("AppendReaddressed(%q) = %q, want %q", in, got, want)
		}
	}
}
