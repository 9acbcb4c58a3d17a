// Package jsonscan finds values in JSON text without decoding the rest. A connection brings a few
// small objects of which the proxy needs one key, and events of which it needs only the first
// argument.
//
//   - token.go: white space and string literals, in text that may be malformed
//   - object.go: the members of an object, which is validated first
package jsonscan
