"""Generated protocol modules; `make proto` remakes them from the .proto files beside them."""
