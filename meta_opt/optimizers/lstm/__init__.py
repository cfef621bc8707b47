"""The LSTM family: network, inputs, state, and native code for the CPU."""
